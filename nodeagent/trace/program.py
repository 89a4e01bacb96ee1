"""The program that bcc compiles on the node, for its kernel (5.10 or newer). Kernel side of ``kernel``.

Probes: ``tcp_connect``, ``inet_csk_accept`` (at its return), the state of sockets (tracepoint ``inet_sock_set_state``),
``tcp_cleanup_rbuf`` (a process has read), ``tcp_retransmit_skb``, ``tcp_send_active_reset``, ``tcp_reset`` and, where
drops are wanted, ``kfree_skb`` (a tracepoint). Everything is read by ``bpf_probe_read_kernel``, so that bcc need not
rewrite any access.
"""

from typing import Final

PROBES: Final = {
    "tcp_connect": "on_connect",
    "tcp_cleanup_rbuf": "on_read",
    "tcp_retransmit_skb": "on_retransmit",
    "tcp_send_active_reset": "on_reset_sent",
    "tcp_reset": "on_reset_received",
}
"""Function of the kernel to function below."""
RETURN_PROBES: Final = {"inet_csk_accept": "on_accept"}

TEXT: Final = r"""
#include <net/inet_sock.h>
#include <net/sock.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/skbuff.h>
#include <linux/tcp.h>

struct event_t {
  u64 at_ns;
  u64 detail;
  u32 pid;
  u16 what;
  u16 family;
  u16 local_port;
  u16 remote_port;
  u8 local[16];
  u8 remote[16];
  char process[16];
};
BPF_PERF_OUTPUT(events);
/* Sockets of which a first byte was read. A full table forgets the oldest: its socket is reported once more. */
BPF_TABLE("lru_hash", u64, u8, read_once, 65536);

static __always_inline void start(struct event_t *event, u16 what) {
  event->at_ns = bpf_ktime_get_ns();
  event->pid = bpf_get_current_pid_tgid() >> 32;
  event->what = what;
  bpf_get_current_comm(&event->process, sizeof(event->process));
}

static __always_inline void report(void *ctx, struct sock *sk, u16 what) {
  struct event_t event = {};
  u16 port = 0;
  start(&event, what);
  bpf_probe_read_kernel(&event.family, sizeof(event.family), &sk->__sk_common.skc_family);
  bpf_probe_read_kernel(&port, sizeof(port), &((struct inet_sock *)sk)->inet_sport); /* stays when it is closed */
  event.local_port = ntohs(port);
  bpf_probe_read_kernel(&port, sizeof(port), &sk->__sk_common.skc_dport);
  event.remote_port = ntohs(port);
  if (event.family == AF_INET) {
    bpf_probe_read_kernel(event.local, 4, &sk->__sk_common.skc_rcv_saddr);
    bpf_probe_read_kernel(event.remote, 4, &sk->__sk_common.skc_daddr);
  } else if (event.family == AF_INET6) {
    bpf_probe_read_kernel(event.local, 16, &sk->__sk_common.skc_v6_rcv_saddr);
    bpf_probe_read_kernel(event.remote, 16, &sk->__sk_common.skc_v6_daddr);
  } else {
    return;
  }
  events.perf_submit(ctx, &event, sizeof(event));
}

int on_connect(struct pt_regs *ctx) {
  report(ctx, (struct sock *)PT_REGS_PARM1(ctx), 1);
  return 0;
}

int on_accept(struct pt_regs *ctx) {
  struct sock *sk = (struct sock *)PT_REGS_RC(ctx);
  if (sk) report(ctx, sk, 2);
  return 0;
}

int on_read(struct pt_regs *ctx) {
  u64 key = PT_REGS_PARM1(ctx);
  u8 yes = 1;
  if ((int)PT_REGS_PARM2(ctx) <= 0 || read_once.lookup(&key)) return 0;
  read_once.update(&key, &yes);
  report(ctx, (struct sock *)key, 4);
  return 0;
}

int on_retransmit(struct pt_regs *ctx) {
  report(ctx, (struct sock *)PT_REGS_PARM1(ctx), 6);
  return 0;
}

int on_reset_sent(struct pt_regs *ctx) {
  report(ctx, (struct sock *)PT_REGS_PARM1(ctx), 7);
  return 0;
}

int on_reset_received(struct pt_regs *ctx) {
  report(ctx, (struct sock *)PT_REGS_PARM1(ctx), 8);
  return 0;
}

TRACEPOINT_PROBE(sock, inet_sock_set_state) {
  u64 key = (u64)args->skaddr;
  if (args->protocol != IPPROTO_TCP) return 0;
  if (args->newstate == TCP_ESTABLISHED) {
    read_once.delete(&key); /* the memory may have been another socket's */
    report(args, (struct sock *)key, 3);
  } else if (args->newstate == TCP_CLOSE && args->oldstate != TCP_LISTEN) {
    report(args, (struct sock *)key, 5);
  }
  return 0;
}

#ifdef DROPS
TRACEPOINT_PROBE(skb, kfree_skb) {
  struct sk_buff *skb = (struct sk_buff *)args->skbaddr;
  struct event_t event = {};
  struct tcphdr tcp = {};
  unsigned char *head = 0;
  u16 network = 0;
  u8 version = 0, protocol = 0;
  u32 length = 40;
  bpf_probe_read_kernel(&head, sizeof(head), &skb->head);
  bpf_probe_read_kernel(&network, sizeof(network), &skb->network_header);
  bpf_probe_read_kernel(&version, 1, head + network);
  if (version >> 4 == 4) {
    event.family = AF_INET;
    length = (version & 15) * 4;
    bpf_probe_read_kernel(&protocol, 1, head + network + 9);
    bpf_probe_read_kernel(event.local, 4, head + network + 12);
    bpf_probe_read_kernel(event.remote, 4, head + network + 16);
  } else if (version >> 4 == 6) {
    event.family = AF_INET6;
    bpf_probe_read_kernel(&protocol, 1, head + network + 6);
    bpf_probe_read_kernel(event.local, 16, head + network + 8);
    bpf_probe_read_kernel(event.remote, 16, head + network + 24);
  }
  if (protocol != IPPROTO_TCP) return 0;
  bpf_probe_read_kernel(&tcp, 4, head + network + length);
  start(&event, 9);
  event.local_port = ntohs(tcp.source);
  event.remote_port = ntohs(tcp.dest);
#ifdef REASONS
  event.detail = args->reason;
#else
  event.detail = (u64)args->location;
#endif
  events.perf_submit(args, &event, sizeof(event));
  return 0;
}
#endif
"""
