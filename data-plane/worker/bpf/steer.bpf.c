// SPDX-License-Identifier: Apache-2.0
//
// Steers the datagrams of leased media ports into a few sockets.
//
// Runs when the kernel looks for the socket of a datagram that no connected socket takes. A leased port has an entry with the
// address it is leased on and the place of the socket of its media thread; everything else takes the kernel's own way, so that
// other programs keep the ports of the range that are not leased, and leased ports on other addresses.

#include <linux/bpf.h>
#include <linux/in.h>
#include <linux/types.h>

#include <bpf/bpf_helpers.h>

#define AF_INET 2

struct lease {
	// Place in `sockets` plus one; 0: not leased.
	__u32 socket;
	// Network order; of an IPv4 address the first word.
	__u32 address[4];
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 65536);
	__type(key, __u32);
	__type(value, struct lease);
} leases SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, 256);
	__type(key, __u32);
	__type(value, __u32);
} sockets SEC(".maps");

SEC("sk_lookup")
int steer(struct bpf_sk_lookup *ctx)
{
	struct bpf_sock *socket;
	struct lease *lease;
	__u32 port, place;

	if (ctx->protocol != IPPROTO_UDP)
		return SK_PASS;
	port = ctx->local_port;
	lease = bpf_map_lookup_elem(&leases, &port);
	if (!lease || !lease->socket)
		return SK_PASS;
	if (ctx->family == AF_INET) {
		if (lease->address[0] != ctx->local_ip4)
			return SK_PASS;
	} else if (lease->address[0] != ctx->local_ip6[0] || lease->address[1] != ctx->local_ip6[1] ||
		   lease->address[2] != ctx->local_ip6[2] || lease->address[3] != ctx->local_ip6[3]) {
		return SK_PASS;
	}
	place = lease->socket - 1;
	socket = bpf_map_lookup_elem(&sockets, &place);
	if (!socket)
		return SK_PASS;
	// On failure the kernel's own way is left, where a lease has no socket: the datagram is lost, as on a full buffer.
	bpf_sk_assign(ctx, socket, 0);
	bpf_sk_release(socket);
	return SK_PASS;
}

char _license[] SEC("license") = "Apache-2.0";
