package supervisor

import (
	"cmp"
	"io"
	"slices"
	"strings"

	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// Bounds of the log files, in bytes; each is kept twice at most (rotatingFile).
const (
	consoleLimit    = 2 << 20
	vmmLimit        = 512 << 10
	guestLimit      = 16 << 20
	supervisorLimit = 1 << 20
	tailLimit       = 4 << 10 // of the console, for an error's detail
	tailLines       = 15
)

// logs are one machine's log files.
type logs struct {
	places      paths.Machine
	console     *rotatingFile
	vmm         *rotatingFile
	guest       *rotatingFile
	consoleTail *tail
	vmmTail     *tail
}

func openLogs(p paths.Machine) (*logs, error) {
	l := &logs{places: p, consoleTail: &tail{max: tailLimit}, vmmTail: &tail{max: tailLimit}}
	for _, f := range []struct {
		to    **rotatingFile
		path  string
		limit int64
	}{{&l.console, p.ConsoleLog(), consoleLimit}, {&l.vmm, p.VMMLog(), vmmLimit}, {&l.guest, p.GuestLog(), guestLimit}} {
		r, err := openRotating(f.path, f.limit)
		if err != nil {
			l.close()
			return nil, paths.WriteError("opening logs", err)
		}
		*f.to = r
	}
	return l, nil
}

func (l *logs) consoleOut() io.Writer { return io.MultiWriter(l.console, l.consoleTail) }
func (l *logs) vmmOut() io.Writer     { return io.MultiWriter(l.vmm, l.vmmTail) }

func (l *logs) close() {
	for _, f := range []*rotatingFile{l.console, l.vmm, l.guest} {
		if f != nil {
			_ = f.Close()
		}
	}
}

// Remedies of an error that comes with what the guest or the VMM printed, and of one where there
// is nothing of that.
const (
	printedBelow   = "what it printed last is below"
	printedNothing = "it had printed nothing yet"
)

// withConsole adds the end of the console, or of the VMM's own words when the guest said
// nothing, to an error.
func (s *supervisor) withConsole(e *machine.Error) error {
	if e.Log == "" {
		e.Log = s.opts.Places.ConsoleLog()
	}
	text := lastLines(s.logs.consoleTail.bytes(), tailLines)
	if text == "" {
		if text = lastLines(s.logs.vmmTail.bytes(), tailLines); text != "" {
			e.Log = s.opts.Places.VMMLog()
		}
	}
	if e.Detail == "" {
		e.Detail = text
	}
	if e.Detail == "" {
		e.Remedy = strings.Replace(e.Remedy, printedBelow, printedNothing, 1)
	}
	return e
}

// lastLines returns the last n lines that say something, with control characters escaped: a
// guest wrote them.
func lastLines(data []byte, n int) string {
	var lines []string
	for line := range strings.SplitSeq(strings.ToValidUTF8(string(data), "\uFFFD"), "\n") {
		line = machine.Printable(strings.TrimRight(line, "\r "))
		if line != "" {
			lines = append(lines, line)
		}
	}
	if len(lines) > n {
		lines = lines[len(lines)-n:]
	}
	return strings.Join(lines, "\n")
}

func sortPorts(ports []machine.Port) {
	slices.SortFunc(ports, func(a, b machine.Port) int {
		return cmp.Or(cmp.Compare(a.GuestPort, b.GuestPort), cmp.Compare(a.HostPort, b.HostPort), cmp.Compare(a.Host, b.Host))
	})
}
