package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"syscall"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/engine"
	"github.com/mvmctl/mvmctl/internal/machine"
	"github.com/mvmctl/mvmctl/internal/paths"
	"github.com/mvmctl/mvmctl/internal/store"
	"github.com/mvmctl/mvmctl/internal/supervisor"
)

// supervise is the whole life of a supervisor process. It was started by the engine of another
// process, which handed over the request on standard input, the pipe for events and the locked
// file that proves this process alive.
func supervise(p paths.Paths) error {
	log := newLog(os.Stderr)
	events := os.NewFile(supervisor.EventsFD, "events")
	alive := os.NewFile(supervisor.AliveFD, "alive")
	if events == nil || alive == nil {
		return machine.Usagef("supervise.internal", "use `mvmctl up`", "this command is for mvmctl itself")
	}
	// Inherited descriptors are not closed on exec by themselves; a VMM must not hold them.
	syscall.CloseOnExec(supervisor.EventsFD)
	syscall.CloseOnExec(supervisor.AliveFD)
	// The request holds the host's private key: no core file may.
	if err := syscall.Setrlimit(syscall.RLIMIT_CORE, &syscall.Rlimit{}); err != nil {
		log.Warn("forbidding core files", "error", err)
	}
	req, err := supervisor.ReadRequest(os.Stdin)
	if err != nil {
		return err
	}
	if err := os.Stdin.Close(); err != nil {
		log.Debug("closing standard input", "error", err)
	}
	ctx, cancel := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	defer cancel()
	catch(syscall.SIGHUP, syscall.SIGPIPE)

	places := p.Machine(req.Boot.Name, req.Boot.ID)
	if w, err := supervisor.OpenLog(places.SupervisorLog(), int(os.Stdout.Fd()), int(os.Stderr.Fd())); err != nil {
		log.Warn("the log will not be bounded", "error", err)
	} else {
		log = newLog(w)
	}
	all := parts(p, log)
	d, err := driverNamed(all.Drivers, req.Boot.Driver)
	if err != nil {
		return err
	}
	st := store.New(p)
	err = supervisor.Run(ctx, supervisor.Options{
		Request: req, Driver: d, Places: places, Build: version,
		SaveStatus: func(s machine.Status) error { return st.SaveStatus(req.Boot.Name, s) },
		Events:     events, Log: log,
	})
	// The lock falls free with the process itself, except for a machine that goes with it.
	engine.New(all).RemoveEnded(context.WithoutCancel(ctx), req.Boot.Name, req.Boot.Generation, func() { _ = alive.Close() })
	return err
}

// catch makes signals do nothing to this process. They are not ignored: the programs that it
// starts would inherit that, and under a backend without a virtual machine the guest's too.
func catch(sigs ...os.Signal) {
	signal.Notify(make(chan os.Signal, 1), sigs...) // nobody reads; what does not fit is dropped
}

func newLog(w io.Writer) *slog.Logger {
	return slog.New(slog.NewTextHandler(w, &slog.HandlerOptions{Level: slog.LevelInfo}))
}

func driverNamed(ds []driver.Driver, name string) (driver.Driver, error) {
	for _, d := range ds {
		if d.Name() == name {
			return d, nil
		}
	}
	return nil, fmt.Errorf("no driver %q in this program", name)
}
