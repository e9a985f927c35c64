package qemu

import (
	"cmp"
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/vmm"
)

// troubles are what goes wrong with a machine that goes on. Failed disk requests are remembered
// to the machine's end: nothing says that the next one will succeed, and what the guest's file
// system made of them is not known either. A pause is over when QEMU says so.
type troubles struct {
	tell  func(string)   // called with the lock held, when the text has changed
	roles []machine.Role // of the disks, in attach order

	mu     sync.Mutex
	io     string // the first failed request, or that the disk is full
	full   bool
	paused string
	asked  bool // for the pause, by us
	stops  int  // counts pauses and their ends
	told   string
}

// blockError takes the data of a BLOCK_IO_ERROR event, of which there can be many.
func (t *troubles) blockError(data json.RawMessage) {
	var d struct {
		Node      string `json:"node-name"`
		Operation string `json:"operation"`
		Reason    string `json:"reason"`
	}
	if json.Unmarshal(data, &d) != nil {
		return
	}
	// The event's "nospace" is set only for a machine that was paused for it (QEMU 7.2,
	// block/block-backend.c), so the reason has to tell: strerror(3), in the C locale.
	full := strings.EqualFold(d.Reason, syscall.ENOSPC.Error()) || strings.EqualFold(d.Reason, syscall.EDQUOT.Error())
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.full || t.io != "" && !full:
		return
	case full:
		t.full = true
		t.io = "the host's disk is full: what the guest writes to its disk fails; make room, then restart the machine"
	default:
		verb := "write to"
		if d.Operation == "read" {
			verb = "read"
		}
		t.io = fmt.Sprintf("the host cannot %s the machine's %s disk: %s", verb, t.role(d.Node), vmm.Escape(vmm.Clip(cmp.Or(d.Reason, "unknown error"), 200)))
	}
	t.changed()
}

// role names the disk of a node as diskArgs numbers them.
func (t *troubles) role(node string) string {
	for i, r := range t.roles {
		if node == diskNode(i) {
			return string(r)
		}
	}
	return vmm.Escape(vmm.Clip(node, 64))
}

// stopped notes a pause and returns its number.
func (t *troubles) stopped() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stops++
	if t.paused = "the guest is paused"; t.asked {
		t.paused = ""
	}
	t.changed()
	return t.stops
}

// ask notes that a pause, or its end, is wanted: then it is no trouble.
func (t *troubles) ask(pause bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.asked = pause
}

// stoppedBy adds QEMU's reason to a pause, unless that is over.
func (t *troubles) stoppedBy(since int, status string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if since != t.stops || status == "" || status == "paused" {
		return
	}
	t.paused = "the guest is paused: QEMU says " + vmm.Escape(vmm.Clip(status, 64))
	t.changed()
}

func (t *troubles) resumed() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.stops++
	t.paused = ""
	t.changed()
}

func (t *troubles) changed() {
	var all []string
	for _, s := range []string{t.paused, t.io} {
		if s != "" {
			all = append(all, s)
		}
	}
	if text := strings.Join(all, "; "); text != t.told {
		t.told = text
		t.tell(text)
	}
}
