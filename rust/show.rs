// SPDX-License-Identifier: GPL-2.0

//! Writes what `/proc/net/tcp_friends` shows of a connection, and `/proc/net/tcp_friends_stat` of a
//! namespace.
//!
//! No socket lock is taken, so each word that is shown was read at a moment of its own. This file
//! relies on no invariant.

use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print, //
};

use crate::{
    net::{
        Rcu,
        Sock, //
    },
    netns::Namespace,
    pair::{
        eligible,
        tally::is_shown_all,
        Member, //
    },
    stats::{
        Counter,
        Fallback, //
    },
};

/// Writes the first line.
pub(crate) fn head(seq: &SeqFile) {
    seq_print!(
        seq,
        "local remote inode peer_inode path peer_path bytes peer_bytes skbs peer_skbs falls\n"
    );
}

/// Writes the line of the pair of `sock`, if `sock` has a friend. A pair within one namespace has
/// one line, though this function is called for both ends. The inode of a socket in another
/// namespace is shown as 0. If that namespace, or what lies between the two namespaces, makes an
/// end take the wire, the reason is not shown either ([`Fallback::shown_to_sender`]).
pub(crate) fn line(seq: &SeqFile, sock: &Sock, rcu: Rcu<'_>) {
    let Some(member) = Member::of(sock, rcu) else {
        return;
    };
    let peer = member.peer();
    let here = peer.net().cookie() == sock.net().cookie();
    // A peer in another namespace has a line of its own in that namespace, as seen from there.
    if here && !member.is_side_a() {
        return;
    }
    let (sent, peer_sent) = (member.end().sent(), member.peer_end().sent());
    let all = is_shown_all(sock, &member);
    let (path, peer_path) = (
        eligible::check_unlocked(sock, &member),
        eligible::check_unlocked(peer, &member.peer_view()),
    );

    seq_print!(
        seq,
        "{} {} {} {} {} {} {} {} {} {} ",
        Address(sock.local()),
        Address(sock.remote()),
        sock.inode(),
        if here { peer.inode() } else { 0 },
        Path(path.map_err(|why| if all { why } else { why.shown_to_sender() })),
        Path(peer_path.map_err(|why| if all { why } else { why.shown_to_receiver() })),
        sent.bytes(),
        peer_sent.bytes(),
        sent.skbs(),
        peer_sent.skbs(),
    );
    let mut before = "";
    let mut untold = 0u32;
    for (why, name) in Fallback::ALL {
        let mut count = member.fallbacks().of(why);

        // `Fallback::Path`, which stands for all reasons that are not shown, comes last.
        if !all && why.shown_to_both() == Fallback::Path {
            untold = untold.wrapping_add(count);
            count = if why == Fallback::Path { untold } else { 0 };
        }
        if count != 0 {
            seq_print!(seq, "{}{}={}", before, name, count);
            before = ",";
        }
    }
    seq_print!(seq, "{}\n", if before.is_empty() { "-" } else { "" });
}

/// An address and a port, in the notation that programs use.
struct Address(core::net::SocketAddr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

/// The way that data would take now: friends, or the wire and why.
struct Path(Result<(), Fallback>);

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Ok(()) => f.write_str("friends"),
            Err(why) => {
                f.write_str("wire:")?;
                fmt::Display::fmt(why.name(), f)
            }
        }
    }
}

/// Writes one line for each counter of `namespace`, with the counter's name and value
/// (`/proc/net/tcp_friends_stat`).
pub(crate) fn counters(namespace: &Namespace, seq: &SeqFile) {
    let line = |name: &dyn fmt::Display, value: u64| seq_print!(seq, "{} {}\n", name, value);

    line(&"pairs", namespace.pairs());
    line(&"pairs_total", namespace.pairs_total());
    for (counter, name) in Counter::ALL {
        if !name.is_empty() {
            line(&name, namespace.counters().sum(counter));
        }
    }
    for (why, name) in Fallback::ALL {
        line(&fmt!("wire_{}", name), namespace.counters().fallbacks(why));
    }
}
