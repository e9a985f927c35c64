// Package krun is the driver for libkrun (https://github.com/containers/libkrun), a VMM for Linux with
// KVM that is a library: no cgo, and nothing of libkrun in this program.
//
// It starts one mvm-krun per machine (cmd/mvm-krun), which loads the library and becomes the VMM, and
// gives it one description (plan.go, a pure function) with the machine's files as descriptors. The
// guest is reached through a unix socket that libkrun connects to the agent's vsock port; its console
// is a serial port that ends in a pipe. libkrun has no API while the machine runs: it is paused by
// stopping the process, and has no power button.
//
// libkrun describes its devices to the guest neither by ACPI nor by PCI. On amd64 the guest's kernel
// must read them from its command line, which those of distributions do not and the one of
// `mvmctl kernel build` does.
//
// It is no way to libkrun's other offers: file systems, networks and processes of the host in the
// guest (TSI) are all left out. cmd/mvmctl makes the driver; the engine and the supervisor call it
// through package driver.
package krun
