//go:build unix

package service

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/guestproc"
)

// world is a manager whose events and output a test can wait for.
type world struct {
	t      *testing.T
	m      *Manager
	events chan agentproto.Event
	mu     sync.Mutex
	out    map[string]*bytes.Buffer
}

func newWorld(t *testing.T) *world {
	t.Helper()
	procs := guestproc.New()
	ctx, cancel := context.WithCancel(context.Background())
	reaped := make(chan struct{})
	go func() { procs.Run(ctx); close(reaped) }()
	w := &world{t: t, events: make(chan agentproto.Event, 1000), out: map[string]*bytes.Buffer{}}
	w.m = New(Options{
		Procs: procs,
		Output: func(source, stream string) io.Writer {
			return writerFunc(func(p []byte) (int, error) {
				w.mu.Lock()
				defer w.mu.Unlock()
				b := w.out[source+"/"+stream]
				if b == nil {
					b = new(bytes.Buffer)
					w.out[source+"/"+stream] = b
				}
				return b.Write(p)
			})
		},
		Event: func(e agentproto.Event) { w.events <- e },
	})
	t.Cleanup(func() {
		w.m.Stop(context.Background(), time.Second)
		cancel()
		<-reaped
	})
	return w
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// wait returns the next event that has the given state.
func (w *world) wait(name, state string) agentproto.Event {
	w.t.Helper()
	deadline := time.After(30 * time.Second)
	var seen []string
	for {
		select {
		case e := <-w.events:
			seen = append(seen, e.Name+"="+e.State)
			if e.Name == name && e.State == state {
				return e
			}
		case <-deadline:
			w.t.Fatalf("%s never became %s; seen %v", name, state, seen)
		}
	}
}

func (w *world) output(key string) string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b := w.out[key]; b != nil {
		return b.String()
	}
	return ""
}

func sh(name, script string) agentproto.Service {
	return agentproto.Service{Name: name, Process: agentproto.Process{Args: []string{"/bin/sh", "-c", script}}, BackoffMax: agentproto.Duration(time.Millisecond)}
}

func TestAServiceThatEndsIsStartedAgain(t *testing.T) {
	w := newWorld(t)
	marker := filepath.Join(t.TempDir(), "runs")
	s := sh("web", "echo run; echo oops >&2; echo x >> "+marker+"; exit 3")
	w.m.Start([]agentproto.Service{s}, nil)
	e := w.wait("web", "backoff")
	if e.ExitCode == nil || *e.ExitCode != 3 || !strings.Contains(e.Message, "exit code 3") {
		t.Errorf("event %+v", e)
	}
	w.wait("web", "running")
	w.wait("web", "backoff")
	if got := w.output("web/out"); !strings.HasPrefix(got, "run\nrun\n") {
		t.Errorf("output %q", got)
	}
	if got := w.output("web/err"); !strings.HasPrefix(got, "oops\noops\n") {
		t.Errorf("errors %q", got)
	}
	if st := w.m.Status(); len(st) != 1 || st[0].Restarts < 2 {
		t.Errorf("status %+v", st)
	}
}

func TestRestartPolicies(t *testing.T) {
	for name, tt := range map[string]struct {
		restart, script, state string
		max                    int
	}{
		"never":               {"never", "exit 3", "failed", 0},
		"never, done":         {"never", "exit 0", "stopped", 0},
		"on failure, done":    {"on-failure", "exit 0", "stopped", 0},
		"on failure, limited": {"on-failure", "exit 1", "failed", 2},
		"unknown program":     {"never", "", "failed", 0},
		"always, but limited": {"always", "exit 0", "stopped", 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			s := sh("web", tt.script)
			s.Restart, s.MaxRestarts = tt.restart, tt.max
			if tt.script == "" {
				s.Args = []string{"/no/such/program"}
			}
			w.m.Start([]agentproto.Service{s}, nil)
			w.wait("web", tt.state)
			if st := w.m.Status()[0]; st.Restarts != tt.max {
				t.Errorf("restarts %d, want %d", st.Restarts, tt.max)
			}
		})
	}
}

func TestPreStartRunsFirstAndItsFailureKeepsTheServiceOff(t *testing.T) {
	w := newWorld(t)
	good := sh("good", "echo service; exec sleep 300")
	good.PreStart = []string{"/bin/sh", "-c", "echo before"}
	bad := sh("bad", "echo never")
	bad.PreStart, bad.Restart = []string{"/bin/sh", "-c", "exit 9"}, "never"
	w.m.Start([]agentproto.Service{good}, nil)
	w.wait("good", "running")
	w.m.Start([]agentproto.Service{bad}, nil)
	if e := w.wait("bad", "failed"); !strings.Contains(e.Message, "pre-start ended with exit code 9") {
		t.Errorf("event %+v", e)
	}
	if out := w.output("bad/out"); out != "" {
		t.Errorf("the service ran: %q", out)
	}
	for !strings.Contains(w.output("good/out"), "service") { // "running" is said before it prints
		time.Sleep(time.Millisecond)
	}
	w.m.Stop(context.Background(), time.Second)
	if out := w.output("good/out"); out != "before\nservice\n" {
		t.Errorf("output %q", out)
	}
}

// Stopping goes in reverse order, takes whole groups, and is bounded for one that ignores it.
func TestStopEndsEverythingInReverse(t *testing.T) {
	w := newWorld(t)
	order := filepath.Join(t.TempDir(), "order")
	first := sh("first", "trap 'echo first >> "+order+"; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	second := sh("second", "trap 'echo second >> "+order+"; exit 0' TERM; echo up; while :; do sleep 0.05; done")
	deaf := sh("deaf", "trap '' TERM; echo up; sleep 300 & wait; while :; do sleep 1; done")
	deaf.StopTimeout = agentproto.Duration(200 * time.Millisecond)
	w.m.Start([]agentproto.Service{first, second, deaf}, nil)
	for _, n := range []string{"first", "second", "deaf"} {
		for w.output(n+"/out") != "up\n" { // their traps are set
			time.Sleep(time.Millisecond)
		}
	}
	begin := time.Now()
	w.m.Stop(context.Background(), 20*time.Second)
	if d := time.Since(begin); d > 15*time.Second {
		t.Errorf("stopping took %s", d)
	}
	if got, _ := os.ReadFile(order); string(got) != "second\nfirst\n" {
		t.Errorf("order %q", got)
	}
	for _, s := range w.m.Status() {
		if s.State != "stopped" || s.Pid != 0 {
			t.Errorf("%+v", s)
		}
	}
}

// The grace is for all services together: those that hang share it, and one that ends at once
// leaves its share to the others.
func TestStopSharesItsGrace(t *testing.T) {
	w := newWorld(t)
	said := filepath.Join(t.TempDir(), "said")
	var all []agentproto.Service
	// Stopped in reverse: the hanging ones first, the one that needs its time last.
	all = append(all, sh("base", "trap 'echo base >> "+said+"; exit 0' TERM; echo up; while :; do sleep 0.05; done"))
	for _, name := range []string{"a", "b", "c"} {
		all = append(all, sh(name, "trap '' TERM; echo up; while :; do sleep 1; done"))
	}
	w.m.Start(all, nil)
	for _, s := range all {
		for w.output(s.Name+"/out") != "up\n" { // their traps are set
			time.Sleep(time.Millisecond)
		}
	}
	begin := time.Now()
	w.m.Stop(context.Background(), 6*time.Second)
	if d := time.Since(begin); d > 12*time.Second { // each its own 6 s would be 18
		t.Errorf("stopping took %s", d)
	}
	if got, _ := os.ReadFile(said); string(got) != "base\n" {
		t.Errorf("the last one was killed: %q", got)
	}
}

// A server that forks and dies must not keep its port: the next start would never get it.
func TestWhatAServiceLeavesBehindIsKilled(t *testing.T) {
	w := newWorld(t)
	lock := filepath.Join(t.TempDir(), "lock")
	s := sh("web", "exec 9>>"+lock+"; flock -n 9 || { echo taken; exit 7; }; sleep 300 & exit 3")
	w.m.Start([]agentproto.Service{s}, nil)
	for range 3 {
		if e := w.wait("web", "backoff"); *e.ExitCode != 3 {
			t.Fatalf("the process of an earlier start still holds the lock: %+v", e)
		}
	}
}

func TestStopDuringBackoffIsPrompt(t *testing.T) {
	w := newWorld(t)
	s := sh("web", "exit 1")
	s.BackoffMax = agentproto.Duration(time.Hour)
	w.m.Start([]agentproto.Service{s}, nil)
	w.wait("web", "backoff")
	w.m.Stop(context.Background(), time.Second)
	if st := w.m.Status()[0]; st.State != "stopped" {
		t.Errorf("%+v", st)
	}
}

func TestALogFileGetsTheOutputToo(t *testing.T) {
	w := newWorld(t)
	s := sh("web", "echo hello")
	s.Restart, s.LogFile = "never", filepath.Join(t.TempDir(), "web.log")
	w.m.Start([]agentproto.Service{s}, nil)
	w.wait("web", "stopped")
	if got, err := os.ReadFile(s.LogFile); err != nil || string(got) != "hello\n" {
		t.Errorf("%q, %v", got, err)
	}
}

func check(name, script string) agentproto.Check {
	return agentproto.Check{
		Name: name, Command: []string{"/bin/sh", "-c", script}, Interval: agentproto.Duration(time.Millisecond),
		Timeout: agentproto.Duration(20 * time.Second), Retries: 2,
	}
}

func TestChecks(t *testing.T) {
	w := newWorld(t)
	good, bad := check("good", "echo fine"), check("bad", "echo broken; exit 1")
	w.m.Start(nil, []agentproto.Check{good, bad})
	w.wait("good", "healthy")
	w.wait("bad", "unhealthy")
	for _, s := range w.m.CheckStatus() {
		if s.Name == "bad" && (s.Failures < 2 || s.Output != "broken\n") {
			t.Errorf("%+v", s)
		}
	}
}

// A check that does not end, or fills its pipe, is unhealthy: silence is no sign of health.
func TestACheckThatTimesOutIsUnhealthy(t *testing.T) {
	w := newWorld(t)
	slow := check("slow", "yes | head -c 1000000; sleep 300 & sleep 300")
	slow.Timeout, slow.Retries = agentproto.Duration(300*time.Millisecond), 1
	w.m.Start(nil, []agentproto.Check{slow})
	w.wait("slow", "unhealthy")
	if s := w.m.CheckStatus()[0]; !strings.Contains(s.Output, "no end within 300ms") || len(s.Output) > checkOutput+100 {
		t.Errorf("output of %d bytes: %.80q", len(s.Output), s.Output)
	}
}

func TestFailuresWithinTheGraceDoNotCount(t *testing.T) {
	w := newWorld(t)
	marker := filepath.Join(t.TempDir(), "ready")
	c := check("web", "test -e "+marker)
	c.Grace, c.Retries = agentproto.Duration(time.Hour), 1
	w.m.Start(nil, []agentproto.Check{c})
	for w.m.CheckStatus()[0].Last.IsZero() {
		time.Sleep(time.Millisecond)
	}
	if s := w.m.CheckStatus()[0]; s.State != "starting" || s.Failures != 0 {
		t.Errorf("%+v", s)
	}
	if err := os.WriteFile(marker, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	w.wait("web", "healthy")
	if err := os.Remove(marker); err != nil {
		t.Fatal(err)
	}
	w.wait("web", "unhealthy") // it was up: the grace is over
}

func TestChecksOfTheImage(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		p := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(p), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(p, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("etc/mvm/integrations.d/a.json", `{"name":"a","command":["true"],"interval":"5s","grace":30}`)
	write("etc/mvm/integrations.d/b.json", `{"name":"b","command":["true"],"typo":1}`)
	write("etc/mvm/integrations.d/c.json", `{"name":"c","command":[]}`)
	write("etc/mvm/integrations.d/d.txt", `ignored`)
	write("etc/mvm/integrations.d/e.json", strings.Repeat(" ", maxCheckFile+1))
	write("etc/mvm/probes.d/p.json", `{"name":"p","kind":"health","command":["uptime"]}`)
	if err := os.Symlink("/etc/passwd", filepath.Join(root, "etc/mvm/probes.d/out.json")); err != nil {
		t.Fatal(err)
	}
	var reports []string
	got := ImageChecks(root, func(err error) { reports = append(reports, err.Error()) })
	want := []agentproto.Check{
		{Name: "a", Kind: "health", Command: []string{"true"}, Interval: agentproto.Duration(5 * time.Second), Grace: agentproto.Duration(30 * time.Second)},
		{Name: "p", Kind: "probe", Command: []string{"uptime"}},
	}
	if d := cmp.Diff(want, got); d != "" {
		t.Errorf("(-want +got):\n%s", d)
	}
	if len(reports) != 4 {
		t.Errorf("reports: %q", reports)
	}
	if got := ImageChecks(t.TempDir(), func(err error) { t.Error(err) }); got != nil {
		t.Errorf("an image without checks: %v", got)
	}
}

func FuzzDecodeCheck(f *testing.F) {
	f.Add([]byte(`{"name":"a","command":["true"],"interval":"5s"}`))
	f.Add([]byte(`{"name":"a","command":["true"],"grace":1e308}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		if c, err := decodeCheck(data, "health"); err == nil && (c.Name == "" || len(c.Command) == 0 || c.Interval < 0) {
			t.Errorf("accepted %q as %+v", data, c)
		}
	})
}
