// SPDX-License-Identifier: GPL-2.0
/* Call the function whose entry starts and stops the counting. */
#define _GNU_SOURCE
#include <unistd.h>

int main(void)
{
	return setdomainname("(profile)", 9) != 0;
}
