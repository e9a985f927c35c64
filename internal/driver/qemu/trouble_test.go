package qemu

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// What QEMU's events say of a machine that goes on is told once, escaped, and is over when they
// say so.
func TestTroubles(t *testing.T) {
	const (
		full  = `{"device":"","node-name":"disk1","operation":"write","action":"report","nospace":false,"reason":"No space left on device"}`
		read  = `{"node-name":"disk0","operation":"read","action":"report","nospace":false,"reason":"Input/output\u001b error"}`
		write = `{"node-name":"disk1","operation":"write","action":"report","reason":"Permission denied"}`
	)
	type event struct{ name, data string }
	for name, tt := range map[string]struct {
		events []event
		says   []string // a part of each
	}{
		"full":                  {[]event{{eventBlockError, full}, {eventBlockError, full}, {eventBlockError, read}}, []string{"disk is full"}},
		"read":                  {[]event{{eventBlockError, read}, {eventBlockError, write}}, []string{`read the machine's root disk: Input/output\x1b error`}},
		"full is the better":    {[]event{{eventBlockError, write}, {eventBlockError, full}}, []string{"write to the machine's upper disk", "disk is full"}},
		"paused":                {[]event{{"STOP", ""}, {"RESUME", ""}, {"RESUME", ""}}, []string{"is paused", ""}},
		"both":                  {[]event{{eventBlockError, full}, {"STOP", ""}, {"RESUME", ""}}, []string{"disk is full", "is paused; the host's disk is full", "disk is full"}},
		"of no known disk":      {[]event{{eventBlockError, strings.Replace(read, "disk0", "evil\\n", 1)}}, []string{`evil\x0a disk`}},
		"what cannot be parsed": {[]event{{eventBlockError, "[]"}}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var told []string
			out := discardOutput()
			out.Trouble = func(s string) { told = append(told, s) }
			v := newVM(out, nil)
			v.ills.roles = []machine.Role{machine.RoleRoot, machine.RoleUpper}
			for _, e := range tt.events {
				v.event(e.name, json.RawMessage(e.data))
			}
			if !slices.EqualFunc(told, tt.says, func(got, want string) bool { return strings.Contains(got, want) && (want != "" || got == "") }) {
				t.Errorf("told %q, want %q", told, tt.says)
			}
		})
	}
}

// QEMU's reason for a pause is added unless that is over already.
func TestTroublesWhyPaused(t *testing.T) {
	var last string
	v := newVM(driver.Output{Trouble: func(s string) { last = s }}, nil)
	first := v.ills.stopped()
	v.ills.stoppedBy(first, "io-error")
	if !strings.HasSuffix(last, "QEMU says io-error") {
		t.Errorf("told %q", last)
	}
	v.ills.resumed()
	v.ills.stoppedBy(first, "io-error")
	if last != "" {
		t.Errorf("told %q after it was over", last)
	}
}

// A host disk that is full makes an event of each write; QEMU is not ended for it.
func TestQMPManyBlockErrors(t *testing.T) {
	n := 0
	conn := peer(t, greeting+strings.Repeat(`{"event":"BLOCK_IO_ERROR","data":{}}`+"\n", 5*maxEventRate), ok)
	q, err := openQMP(within(t, patience), conn, func(string, json.RawMessage) { n++ })
	if err != nil {
		t.Fatal(err)
	}
	if _, err := q.execute(within(t, patience), "query-status", nil); err != nil || n != 5*maxEventRate {
		t.Errorf("after %d events: %v", n, err)
	}
}
