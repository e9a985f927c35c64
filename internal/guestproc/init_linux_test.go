package guestproc

import (
	"os"
	"os/signal"
	"syscall"
	"testing"
)

func TestHeeds(t *testing.T) {
	const status = "Name:\tx\nSigPnd:\t0000000000000000\nSigBlk:\t0000001000000000\nSigIgn:\t0000000000000001\nSigCgt:\t0000000000004000\n"
	for sig, want := range map[syscall.Signal]bool{syscall.SIGTERM: true, 37: true, syscall.SIGHUP: false, syscall.SIGINT: false, 64: false} {
		if got := heeds(status, sig); got != want {
			t.Errorf("%v: %v, want %v", sig, got, want)
		}
	}
	if !heeds("SigCgt:\tnonsense\n", syscall.SIGTERM) {
		t.Error("what cannot be read is no reason to wait")
	}
	// The kernel's own words about this process.
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR2)
	defer signal.Stop(c)
	self := &Proc{pid: os.Getpid()}
	if !self.Heeds(syscall.SIGUSR2) {
		t.Error("a handler is not seen")
	}
	if !(&Proc{pid: 1 << 30}).Heeds(syscall.SIGTERM) {
		t.Error("a process that is gone need not be waited for")
	}
}
