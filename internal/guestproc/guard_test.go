package guestproc

import (
	"strings"
	"testing"
)

func TestGuard(t *testing.T) {
	var said string
	Guard(func(text string) { said = text }, func() {})
	if said != "" {
		t.Errorf("blamed for nothing: %s", said)
	}
	var empty []int
	Guard(func(text string) { said = text }, func() { _ = empty[len(said)+1] })
	if !strings.Contains(said, "index out of range") || !strings.Contains(said, "guard_test.go") {
		t.Errorf("a panic was told as %q", said)
	}
}
