// SPDX-License-Identifier: GPL-2.0

//! What `/proc/net/tcp_friends` shows of a connection.
//!
//! No lock of a socket is taken: what is shown is what was seen at one moment, a word
//! at a time. Relies on no invariant.

use kernel::{
    fmt,
    prelude::*,
    seq_file::SeqFile,
    seq_print, //
};

use crate::{
    abstractions::{
        Member,
        Rcu,
        Sock, //
    },
    fence,
    stats::{
        is_told_all,
        Wire, //
    },
};

/// The first line.
pub(crate) fn head(seq: &SeqFile) {
    seq_print!(
        seq,
        "local remote inode peer_inode path peer_path bytes peer_bytes skbs peer_skbs falls\n"
    );
}

/// The pair of `sock`, if it has a friend: once, though both ends are asked. An inode of
/// another namespace is not told: it is 0. Nor is why that namespace, or what lies between
/// the two, has the wire taken ([`Wire::told`]).
pub(crate) fn line(seq: &SeqFile, sock: &Sock, rcu: Rcu<'_>) {
    let Some(member) = Member::of(sock, rcu) else {
        return;
    };
    let peer = member.peer();
    let here = peer.net().cookie() == sock.net().cookie();
    // One in another namespace has a line there, as seen from there.
    if here && !member.is_first() {
        return;
    }
    let (sent, peer_sent) = (member.sent(), member.peer_sent());
    let all = is_told_all(sock, &member);
    let (path, peer_path) = (
        fence::seen(sock, &member),
        fence::seen(peer, &member.turned()),
    );

    seq_print!(
        seq,
        "{} {} {} {} {} {} {} {} {} {} ",
        Address(sock.local()),
        Address(sock.remote()),
        sock.inode(),
        if here { peer.inode() } else { 0 },
        Path(path.map_err(|why| if all { why } else { why.told() })),
        Path(peer_path.map_err(|why| if all { why } else { why.told_to_receiver() })),
        sent.bytes(),
        peer_sent.bytes(),
        sent.skbs(),
        peer_sent.skbs(),
    );
    let mut before = "";
    let mut untold = 0u32;
    for (why, name) in Wire::ALL {
        let mut count = member.tally().wire(why);

        // The one that stands for what is not told comes last.
        if !all && why.told_of_stream() == Wire::Path {
            untold = untold.wrapping_add(count);
            count = if why == Wire::Path { untold } else { 0 };
        }
        if count != 0 {
            seq_print!(seq, "{}{}={}", before, name, count);
            before = ",";
        }
    }
    seq_print!(seq, "{}\n", if before.is_empty() { "-" } else { "" });
}

/// An address and a port, as programs write them.
struct Address(core::net::SocketAddr);

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        core::fmt::Display::fmt(&self.0, f)
    }
}

/// Which way it would go.
struct Path(Result<(), Wire>);

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
