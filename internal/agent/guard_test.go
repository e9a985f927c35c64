//go:build unix

package agent

import (
	"bytes"
	"context"
	"net/http"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// brokenWriter stands for a bug that a large record brings up.
type brokenWriter struct{ bytes.Buffer }

func (*brokenWriter) Header() http.Header { return http.Header{} }
func (*brokenWriter) WriteHeader(int)     {}
func (*brokenWriter) Flush()              {}

func (w *brokenWriter) Write(p []byte) (int, error) {
	if len(p) > 1000 {
		panic("a bug")
	}
	return w.Buffer.Write(p)
}

// A bug in what passes a program's output on ends that program's stream, and the agent goes on.
func TestABugInAStreamEndsThatStream(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	sh, err := exec.LookPath("sh")
	if err != nil {
		t.Skipf("missing: a shell: %v", err)
	}
	procs := guestproc.New()
	go procs.Run(ctx)
	a := New(Options{Config: &agentproto.Config{}, Procs: procs, Log: NewLog(), Events: NewEvents()})
	p, err := a.startProgram(guestproc.Spec{Path: sh, Args: []string{"sh", "-c", "while :; do echo 0123456789; done"}}, wiring{})
	if err != nil {
		t.Fatal(err)
	}
	w := &brokenWriter{}
	body, stopBody := context.WithCancel(ctx)
	s := &stream{
		ctx: ctx, w: w, rc: http.NewResponseController(w),
		in: agentproto.NewRecordReader(untilDone{body}), out: agentproto.NewRecordWriter(w),
	}
	go func() { // what stopReading does to a real stream
		<-p.proc.Done()
		stopBody()
	}()
	exit := a.converse(s, p, conversation{})
	if exit.Error == nil || exit.Error.Code != agentproto.CodeInternal || exit.Signal != "SIGKILL" {
		t.Errorf("exit %+v", exit)
	}
	entries, _ := a.opts.Log.since(0, 100)
	var text strings.Builder
	for _, e := range entries {
		text.WriteString(e.Text + "\n")
	}
	if !strings.Contains(text.String(), "internal error: a bug") || !strings.Contains(text.String(), "guard_test.go") {
		t.Errorf("the log says %q", text.String())
	}
}

// untilDone blocks until its context ends.
type untilDone struct{ ctx context.Context }

func (u untilDone) Read([]byte) (int, error) {
	<-u.ctx.Done()
	return 0, u.ctx.Err()
}
