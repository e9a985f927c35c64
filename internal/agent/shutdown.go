//go:build unix

package agent

import (
	"context"
	"net/http"
	"sync"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

const (
	maxGrace  = 10 * time.Minute // the longest grace a host can ask for
	afterKill = 2 * time.Second  // for programs to be reaped after SIGKILL
	lastLines = time.Second      // for readers of events and the log to take their end
	lastWords = time.Second      // for ended streams to say so to the host, and for it to have heard
)

func (a *Agent) serveShutdown(w http.ResponseWriter, r *http.Request) {
	var req agentproto.ShutdownRequest
	if !readJSON(w, r, &req) {
		return
	}
	w.WriteHeader(http.StatusAccepted)
	_ = http.NewResponseController(w).Flush()
	go guestproc.Guard(a.blame, func() { a.shutdown(req) })
}

// Shutdown ends everything in the guest and then the guest, as a host's request does.
func (a *Agent) Shutdown(reboot bool) { a.shutdown(agentproto.ShutdownRequest{Reboot: reboot}) }

// shutdown ends everything in the guest and then the guest. The first call does it, all
// return when it is done.
func (a *Agent) shutdown(req agentproto.ShutdownRequest) {
	a.stop.Do(func() {
		defer close(a.stopped)
		a.phase.Store("stopping")
		a.opts.Events.Add(agentproto.Event{Type: "stopping"})
		close(a.stopping) // ends execs and the console
		a.stopPrograms(min(req.Grace.Or(agentproto.KillGrace), maxGrace))
		if a.opts.Root == "/" && !a.opts.Shared {
			syscall.Sync() // before all politeness: a host in a hurry gives a guest seconds
		}
		a.work.drain(lastWords)
		a.opts.Events.End()
		a.opts.Log.End()
		if a.lastReaders.drain(lastLines) {
			// It is written, but not yet there: what carries the channel may end with this process.
			select {
			case <-a.heard:
			case <-time.After(lastWords):
			}
		}
		if a.opts.PowerOff != nil {
			a.opts.PowerOff(req.Reboot)
		}
	})
	<-a.stopped
}

// stopPrograms ends the main program and the services, and is done after grace and a little
// more even if one of them cannot be reaped.
func (a *Agent) stopPrograms(grace time.Duration) {
	ctx, cancel := context.WithTimeout(context.Background(), grace+afterKill)
	defer cancel()
	var wg sync.WaitGroup
	if a.main != nil {
		wg.Go(func() { a.main.end(grace) })
	}
	if a.opts.Services != nil {
		wg.Go(func() { a.opts.Services.Stop(ctx, grace) })
	}
	done := make(chan struct{})
	go func() {
		wg.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
		a.logf("err", "some programs did not end within %v", grace+afterKill)
	}
}

// readers counts those who still read: the log, or the end of a stream.
type readers struct {
	mu   sync.Mutex
	n    int
	none chan struct{} // closed when the last one ends; nil while nobody waits
}

func (r *readers) add(n int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.n += n
	if r.n == 0 && r.none != nil {
		close(r.none)
		r.none = nil
	}
}

// drain waits up to limit for all of them to have ended, and reports whether there were any.
func (r *readers) drain(limit time.Duration) bool {
	r.mu.Lock()
	if r.n == 0 {
		r.mu.Unlock()
		return false
	}
	if r.none == nil {
		r.none = make(chan struct{})
	}
	none := r.none
	r.mu.Unlock()
	t := time.NewTimer(limit)
	defer t.Stop()
	select {
	case <-none:
	case <-t.C:
	}
	return true
}
