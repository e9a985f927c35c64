// Package firecracker is the driver for Firecracker on a Linux host with KVM.
//
// It starts one firecracker process per machine, tells it over its API socket what machine to
// build, and reaches the guest through the unix socket that stands for its vsock device. As root
// with the jailer beside it, every machine has a user id, a root directory and a control group of
// its own.
//
// It is not a general client for Firecracker: it sends the few requests that one kind of machine
// needs (api.go), each of which the tests hold against Firecracker's own API documents. It looks
// nothing up and knows nothing of snapshots and networks. cmd/mvmctl makes it; the engine and the
// supervisor call it through package driver.
package firecracker
