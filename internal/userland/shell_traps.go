package userland

import (
	"fmt"
	"os"
	"os/signal"
	"slices"
	"strings"
	"sync"
	"syscall"

	"mvdan.cc/sh/v3/interp"
)

// trapTable holds the signal traps of one shell. The interpreter itself knows
// EXIT and ERR only.
type trapTable struct {
	// live says that the shell owns its process, whose signals may be caught.
	live bool
	ch   chan os.Signal
	// wake gets the number of a trapped signal when somebody waits for it.
	wake chan int

	mu       sync.Mutex
	commands map[syscall.Signal]string
	pending  []syscall.Signal
}

func newTrapTable(live bool) *trapTable {
	return &trapTable{live: live, wake: make(chan int), commands: map[syscall.Signal]string{}}
}

func (t *trapTable) close() {
	if t.ch != nil {
		signal.Stop(t.ch)
		close(t.ch)
	}
}

// next returns the command of a signal that has arrived.
func (t *trapTable) next() (command string, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for len(t.pending) > 0 {
		sig := t.pending[0]
		t.pending = t.pending[1:]
		if cmd := t.commands[sig]; cmd != "" {
			return cmd, true
		}
	}
	return "", false
}

// listen starts catching signals, once.
func (t *trapTable) listen() {
	if t.ch != nil {
		return
	}
	t.ch = make(chan os.Signal, 16)
	go func() {
		for sig := range t.ch {
			s, ok := sig.(syscall.Signal)
			if !ok {
				continue
			}
			t.note(s)
		}
	}()
}

// note records a signal that has a trap.
func (t *trapTable) note(sig syscall.Signal) {
	t.mu.Lock()
	t.pending = append(t.pending, sig)
	t.mu.Unlock()
	select {
	case t.wake <- int(sig):
	default: // nobody is waiting
	}
}

// arrived gives a signal whose trap has not run yet.
func (t *trapTable) arrived() (syscall.Signal, bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, sig := range t.pending {
		if t.commands[sig] != "" {
			return sig, true
		}
	}
	return 0, false
}

// killSelf sends a signal to the shell itself. Its effect must be there before
// the next command runs, so a trapped one does not go through the kernel.
func (t *trapTable) killSelf(n int) error {
	sig := syscall.Signal(n)
	t.mu.Lock()
	command, trapped := t.commands[sig]
	t.mu.Unlock()
	switch {
	case trapped && command != "":
		t.note(sig)
		return nil
	case trapped: // ignored
		return nil
	}
	return signalThisThread(sig)
}

// set installs the command for a signal; "-" restores the default.
func (t *trapTable) set(sig syscall.Signal, command string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if command == "-" {
		delete(t.commands, sig)
	} else {
		t.commands[sig] = command
	}
	if !t.live {
		return
	}
	switch command {
	case "-":
		signal.Reset(sig)
	case "":
		signal.Ignore(sig) // children inherit that
	default:
		t.listen()
		signal.Notify(t.ch, sig)
	}
}

// handle deals with the signals of a trap command and returns what is left for
// the interpreter's own trap.
func (t *trapTable) handle(hc interp.HandlerContext, args []string) []string {
	rest := args[1:]
	if len(rest) > 0 && rest[0] == "--" {
		rest = rest[1:]
	}
	if len(rest) == 0 {
		t.print(hc)
		return args
	}
	if strings.HasPrefix(rest[0], "-") && rest[0] != "-" {
		return args
	}
	command, names := rest[0], rest[1:]
	if len(names) == 0 {
		command, names = "-", rest
	}
	left := []string{"trap", "--", command}
	for _, name := range names {
		if name == "0" || name == "EXIT" || name == "ERR" {
			left = append(left, strings.Replace(name, "0", "EXIT", 1))
			continue
		}
		sig, ok := parseSignal(name)
		if !ok || sig == 0 {
			return append(left, name) // the interpreter complains
		}
		t.set(sig, command)
	}
	if len(left) == 3 {
		return []string{"true"}
	}
	if command == "-" {
		return append([]string{"trap", "-"}, left[3:]...)
	}
	return left
}

func (t *trapTable) print(hc interp.HandlerContext) {
	t.mu.Lock()
	defer t.mu.Unlock()
	var sigs []syscall.Signal
	for sig := range t.commands {
		sigs = append(sigs, sig)
	}
	slices.Sort(sigs)
	for _, sig := range sigs {
		fmt.Fprintf(hc.Stdout, "trap -- %s %s\n", quoteArgs([]string{t.commands[sig]}), signalName(sig))
	}
}
