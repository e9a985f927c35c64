package supervisor

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentclient"
	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// stubVM is a VMM that ends when it is killed or when end is called, and takes the power button
// only if it is told to.
type stubVM struct {
	gone    chan error
	killed  bool
	stuck   bool // does not even take the button
	pressed bool
}

func (v *stubVM) Dial(context.Context, uint32) (net.Conn, error) { return nil, errors.ErrUnsupported }
func (v *stubVM) Wait() error                                    { return nil }

func (v *stubVM) Kill() error {
	v.killed = true
	v.gone <- nil
	return nil
}

func (v *stubVM) Shutdown(ctx context.Context) error {
	v.pressed = true
	if v.stuck {
		<-ctx.Done()
		return ctx.Err()
	}
	return nil
}

// agent answers the requests of a stub guest.
type agent func(r *http.Request) (*http.Response, error)

func (f agent) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func accepted() *http.Response {
	return &http.Response{StatusCode: http.StatusAccepted, Body: io.NopCloser(strings.NewReader(""))}
}

func silent(r *http.Request) (*http.Response, error) {
	<-r.Context().Done()
	return nil, r.Context().Err()
}

// stopWith stops a running machine whose agent is a, and returns how long that took.
func stopWith(t *testing.T, vm *stubVM, slow bool, grace time.Duration, a ...agent) (time.Duration, machine.Status) {
	t.Helper()
	return stopThis(t, vm, Request{Slow: slow}, control.StopRequest{GraceMS: grace.Milliseconds()}, a...)
}

func stopThis(t *testing.T, vm *stubVM, what Request, req control.StopRequest, a ...agent) (time.Duration, machine.Status) {
	t.Helper()
	s := &supervisor{killNow: make(chan struct{}), opts: Options{
		Request: what, Log: slog.New(slog.DiscardHandler), SaveStatus: func(machine.Status) error { return nil },
	}}
	s.status.Ready = time.Now()
	s.guest = newGuest(s.opts, vm, io.Discard, nil)
	close(s.guest.logged)
	go func() {
		for _, f := range a {
			s.guest.use(agentclient.NewClient(f))
			synctest.Wait() // until it was asked
		}
	}()
	began := time.Now()
	if req.Force {
		s.Stop(req)
	}
	if err := s.stop(vm, vm.gone, req); err != nil {
		t.Errorf("stop: %v", err)
	}
	return time.Since(began), s.Status()
}

// A forced stop is immediate, but what outlives the machine is written first.
func TestForcedStop(t *testing.T) {
	quick := func(vm *stubVM) agent {
		return func(*http.Request) (*http.Response, error) { vm.gone <- nil; return accepted(), nil }
	}
	volume := []machine.Disk{{Role: machine.RoleRoot, ReadOnly: true}, {Role: machine.RoleUpper}, {Role: machine.RoleOfVolume(0)}}
	readOnly := []machine.Disk{{Role: machine.RoleOfVolume(0), ReadOnly: true}}
	for name, tt := range map[string]struct {
		disks  []machine.Disk
		agent  func(vm *stubVM) agent
		killed bool
		took   time.Duration
	}{
		"nothing outlives it":          {nil, quick, true, 0},
		"only what it reads":           {readOnly, quick, true, 0},
		"a volume":                     {volume, quick, false, 0},
		"a guest that does not answer": {volume, func(*stubVM) agent { return silent }, true, flushTime},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vm := &stubVM{gone: make(chan error, 1)}
				took, _ := stopThis(t, vm, Request{Boot: machine.Boot{Disks: tt.disks}}, control.StopRequest{Force: true}, tt.agent(vm))
				if vm.killed != tt.killed || took != tt.took {
					t.Errorf("killed %v after %v, want %v after %v", vm.killed, took, tt.killed, tt.took)
				}
			})
		})
	}
}

func TestStopKeepsItsTime(t *testing.T) {
	lost := func(*http.Request) (*http.Response, error) { return nil, io.ErrUnexpectedEOF }
	for name, tt := range map[string]struct {
		slow, stuck bool
		grace       time.Duration
		agent       func(vm *stubVM) []agent
		most        time.Duration
		killed      bool
	}{
		"a guest that stands still": {
			slow: true, stuck: true, grace: 5 * time.Second, most: 8 * time.Second, killed: true,
			agent: func(*stubVM) []agent { return []agent{silent} },
		},
		"no grace": {
			slow: true, grace: time.Millisecond, most: 8 * time.Second, killed: true,
			agent: func(*stubVM) []agent { return []agent{silent} },
		},
		"no connection": {
			slow: true, grace: 5 * time.Second, most: 8 * time.Second, killed: true,
			agent: func(*stubVM) []agent { return nil },
		},
		"an emulated guest that agreed and is slow": {
			slow: true, grace: time.Second, most: 50 * time.Second,
			agent: func(vm *stubVM) []agent {
				return []agent{func(*http.Request) (*http.Response, error) {
					time.AfterFunc(50*time.Second, func() { vm.gone <- nil })
					return accepted(), nil
				}}
			},
		},
		"one that powers off faster than its answer": {
			slow: true, grace: time.Second, most: 20 * time.Second,
			agent: func(vm *stubVM) []agent {
				return []agent{func(*http.Request) (*http.Response, error) {
					time.AfterFunc(20*time.Second, func() { vm.gone <- nil })
					return nil, io.ErrUnexpectedEOF
				}}
			},
		},
		"a connection that was lost before": {
			grace: time.Second, most: time.Second,
			agent: func(vm *stubVM) []agent {
				return []agent{lost, func(*http.Request) (*http.Response, error) {
					time.AfterFunc(time.Second, func() { vm.gone <- nil })
					return accepted(), nil
				}}
			},
		},
		"one that ends while it is asked": {
			grace: time.Minute, most: time.Second,
			agent: func(vm *stubVM) []agent {
				time.AfterFunc(time.Second, func() { vm.gone <- errors.New("signal") })
				return []agent{silent}
			},
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				vm := &stubVM{gone: make(chan error, 1), stuck: tt.stuck}
				took, st := stopWith(t, vm, tt.slow, tt.grace, tt.agent(vm)...)
				if took > tt.most {
					t.Errorf("it took %s, want at most %s", took, tt.most)
				}
				if vm.killed != tt.killed || vm.pressed != tt.killed {
					t.Errorf("killed %v, button pressed %v, want %v for both", vm.killed, vm.pressed, tt.killed)
				}
				if killed := strings.HasPrefix(st.Reason, "killed"); killed != tt.killed {
					t.Errorf("reason %q", st.Reason)
				}
			})
		})
	}
}

// Trouble shows in the status while the machine runs.
func TestTroubleShows(t *testing.T) {
	var saved machine.Status
	s := &supervisor{opts: Options{Log: slog.New(slog.DiscardHandler), SaveStatus: func(st machine.Status) error { saved = st; return nil }}}
	s.trouble("the host's disk is full")
	if saved.Problem != "the host's disk is full" {
		t.Errorf("problem %q", saved.Problem)
	}
	s.trouble("")
	if saved.Problem != "" {
		t.Errorf("problem %q after it was over", saved.Problem)
	}
}

// The log of a supervisor stays bounded, and what else writes to its descriptors (a panic of
// this program) follows it.
func TestSupervisorLogIsBounded(t *testing.T) {
	path := t.TempDir() + "/supervisor.log"
	inherited, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = inherited.Close() }()
	w, err := OpenLog(path, int(inherited.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = w.Close() }()
	log := slog.New(slog.NewTextHandler(w, nil))
	for range 3 * supervisorLimit / 100 {
		log.Warn("agent connection lost, connecting again", "after", "50ms", "padding", "to some hundred bytes")
	}
	if _, err := inherited.WriteString("panic: last words\n"); err != nil {
		t.Fatal(err)
	}
	now, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	old, err := os.ReadFile(path + ".1")
	if err != nil {
		t.Fatal(err)
	}
	if len(now) > supervisorLimit || len(old) > supervisorLimit {
		t.Errorf("%d and %d bytes, want at most %d each", len(now), len(old), supervisorLimit)
	}
	if !strings.HasSuffix(string(now), "panic: last words\n") {
		t.Errorf("the descriptor does not follow: %q", now[max(0, len(now)-100):])
	}
}
