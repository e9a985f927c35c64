package ui

import (
	"fmt"
	"io"
	"sync"
	"time"
)

// ProgressMode says how progress is shown.
type ProgressMode string

// Progress modes, as --progress takes them.
const (
	ProgressAuto  ProgressMode = "auto"  // a line that rewrites itself, on a terminal only
	ProgressPlain ProgressMode = "plain" // one line per step
	ProgressNone  ProgressMode = "none"
)

const (
	progressDelay = 150 * time.Millisecond // what is quicker than this is not worth a flicker
	progressTick  = 100 * time.Millisecond
)

// Progress shows what a longer command is doing. All methods are safe for concurrent use and
// do nothing once Stop was called.
type Progress struct {
	w     io.Writer
	mode  ProgressMode
	width int
	now   func() time.Time
	quit  chan struct{}
	done  sync.WaitGroup

	mu      sync.Mutex
	start   time.Time
	step    string
	since   time.Time
	current int64
	total   int64
	shown   bool
	stopped bool
}

// NewProgress returns a progress display on w. Auto means a live line if terminal is set and
// nothing otherwise; width is the terminal's, 0 when unknown.
func NewProgress(w io.Writer, mode ProgressMode, terminal bool, width int) *Progress {
	if mode == ProgressAuto && !terminal {
		mode = ProgressNone
	}
	p := &Progress{w: w, mode: mode, width: width, now: time.Now, quit: make(chan struct{})}
	p.start = p.now()
	if mode == ProgressAuto {
		p.done.Go(p.live)
	}
	return p
}

// Step says that a step has begun.
func (p *Progress) Step(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.mode == ProgressNone {
		return
	}
	name = Line(name)
	if p.step == name {
		return
	}
	p.step, p.since, p.current, p.total = name, p.now(), 0, 0
	if p.mode == ProgressPlain {
		p.write("[%6.2fs] %s\n", p.since.Sub(p.start).Seconds(), p.step)
	}
}

// Bytes says how far the current step is.
func (p *Progress) Bytes(current, total int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.current, p.total = current, total
}

// Done says that a step has ended.
func (p *Progress) Done(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.step == Line(name) {
		p.step = ""
	}
}

// Print writes a whole line of other text without mixing it with the live line. It works in
// every mode and after Stop.
func (p *Progress) Print(line string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.erase()
	p.write("%s\n", Line(line))
}

// Stop removes the live line; nothing more is shown. It may be called more than once.
func (p *Progress) Stop() {
	p.mu.Lock()
	if p.stopped {
		p.mu.Unlock()
		return
	}
	p.stopped = true
	p.erase()
	p.mu.Unlock()
	close(p.quit)
	p.done.Wait()
}

func (p *Progress) erase() {
	if p.shown {
		p.write("\r\x1b[K")
		p.shown = false
	}
}

// write ignores errors: progress that nobody can see is no reason to stop.
func (p *Progress) write(format string, args ...any) { _, _ = fmt.Fprintf(p.w, format, args...) }

func (p *Progress) live() {
	tick := time.NewTicker(progressTick)
	defer tick.Stop()
	for {
		select {
		case <-p.quit:
			return
		case <-tick.C:
			p.draw()
		}
	}
}

func (p *Progress) draw() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.stopped || p.step == "" || p.now().Sub(p.start) < progressDelay {
		return
	}
	text := fmt.Sprintf("%s  %.1fs", p.step, p.now().Sub(p.since).Seconds())
	if p.total > 0 {
		text = fmt.Sprintf("%s  %d%%", p.step, p.current*100/p.total)
	}
	if p.width > 1 {
		text = Clip(text, p.width-1)
	}
	p.write("\r\x1b[K%s", text)
	p.shown = true
}
