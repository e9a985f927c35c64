package supervisor

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"log/slog"
	"net"
	"os"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	guestagent "github.com/mvmctl/mvmctl/internal/agent"
	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/control"
	"github.com/mvmctl/mvmctl/internal/guestproc"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
)

// agentVM is a VMM in whose machine an agent runs, and another one after each boot.
type agentVM struct {
	stubVM
	config *agentproto.Config
	at     atomic.Pointer[net.TCPAddr]
}

func (v *agentVM) Dial(ctx context.Context, _ uint32) (net.Conn, error) {
	return (&net.Dialer{}).DialContext(ctx, "tcp", v.at.Load().String())
}

// boot starts an agent, and returns what ends it.
func (v *agentVM) boot(t *testing.T) (end func()) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	v.at.Store(ln.Addr().(*net.TCPAddr))
	a := guestagent.New(guestagent.Options{Config: v.config, Procs: guestproc.New(), Log: guestagent.NewLog(), Events: guestagent.NewEvents()})
	ctx, cancel := context.WithCancel(context.Background())
	served := make(chan error, 1)
	go func() { served <- a.Serve(ctx, ln) }()
	return func() {
		cancel()
		if err := <-served; err != nil {
			t.Errorf("the agent: %v", err)
		}
	}
}

// A guest that boots again by itself, in a VMM that lets it, ends its machine; one that has only
// lost its connection does not.
func TestGuestThatBootsAgain(t *testing.T) {
	t.Parallel()
	hostPub, host, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	guestPub, guest, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	vm := &agentVM{stubVM: stubVM{gone: make(chan error, 1)}, config: &agentproto.Config{
		Protocol: agentproto.Version, MachineID: "0123456789abcdef", Generation: 1, GuestSeed: guest.Seed(), HostKey: hostPub,
		Random: make([]byte, 64), Access: agentproto.AllAccess(),
	}}
	end := vm.boot(t)
	running := make(chan struct{})
	saw := sync.OnceFunc(func() { close(running) })
	s := &supervisor{killNow: make(chan struct{}), stopping: make(chan control.StopRequest, 1), opts: Options{
		Request: Request{Boot: machine.Boot{Name: "m", ID: "0123456789abcdef", Generation: 1}, HostSeed: host.Seed(), GuestKey: guestPub},
		Log:     slog.New(slog.DiscardHandler), Places: paths.Machine{Dir: t.TempDir()},
		SaveStatus: func(st machine.Status) error {
			if st.State == machine.StateRunning {
				saw()
			}
			return nil
		},
	}}
	if err := os.MkdirAll(s.opts.Places.Logs(), 0o700); err != nil {
		t.Fatal(err)
	}
	if s.logs, err = openLogs(s.opts.Places); err != nil {
		t.Fatal(err)
	}
	defer s.logs.close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	lived := make(chan error, 1)
	go func() { lived <- s.live(ctx, vm, vm.gone) }()
	select {
	case <-running:
	case err := <-lived:
		t.Fatalf("it is not up: %v", err)
	}

	c := s.guest.current()
	_ = c.Close()
	if s.guest.other(ctx, c) == nil {
		t.Fatal("it does not connect again")
	}
	select {
	case err := <-lived:
		t.Fatalf("a lost connection ended it: %v", err)
	default:
	}

	end()
	defer vm.boot(t)()
	if err := <-lived; machine.CodeOf(err) != "guest.rebooted" || !vm.killed {
		t.Errorf("after its second boot: %v, killed: %v", err, vm.killed)
	}
}
