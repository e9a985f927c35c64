// Package kvmhost is another host for tests: a Linux with a real /dev/kvm, /dev/vhost-vsock and
// /dev/net/tun on machines that have none of them. QEMU emulates a processor with AMD's
// virtualisation, and what runs in that machine is Debian's kernel and Debian's QEMU, put
// together from packages that apt fetches once. Commands run in it as root with their output and
// exit code, over a port of the machine; there is no network and no SSH. What is written there is
// gone with it.
//
// It is for tests only, needs neither root nor KVM, and is slow: what runs inside is emulated,
// and guests inside are emulated twice. It uses nothing of ours that it is there to test: only
// packages disk and layer, for its disks. The program init is its process 1.
package kvmhost
