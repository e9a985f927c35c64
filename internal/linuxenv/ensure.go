package linuxenv

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/mvmctl/mvmctl/internal/flock"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// startTime is how long another process may take to make or start the virtual machine. limactl itself
// gives up after ten minutes.
const startTime = 15 * time.Minute

// Ensure makes the virtual machine if it does not exist, and starts it if it does not run. What
// limactl says meanwhile goes to progress. A first start downloads some 300 MB and takes minutes. Of
// several that are asked for at once, one does it and the others wait for it.
func (v *VM) Ensure(ctx context.Context, progress io.Writer) error {
	t, err := v.Find(ctx)
	if err != nil {
		return err
	}
	unlock, err := v.lock(ctx, progress)
	if err != nil {
		return err
	}
	defer unlock()
	s, err := v.State(ctx, t)
	if err != nil {
		return err
	}
	switch s.Status {
	case StatusRunning:
		return v.check(s)
	case StatusStopped:
		if err := v.check(s); err != nil {
			return err
		}
		defer v.claim("starts")()
		return v.limactl(ctx, t, progress, "start", "--tty=false", v.opts.Instance)
	case StatusNone:
		defer v.claim("makes")()
		return v.create(ctx, t, progress)
	}
	return machine.Errorf("lima.instance", "look at `limactl list`, and at ha.stderr.log in the instance's folder. "+v.deleting(), "the Lima instance %s is %s", v.opts.Instance, s.Status)
}

// create makes the virtual machine from our template and starts it.
func (v *VM) create(ctx context.Context, t Tool, progress io.Writer) error {
	text, err := v.opts.Template.YAML()
	if err != nil {
		return err
	}
	f, err := os.CreateTemp("", "mvmctl-lima-*.yaml")
	if err != nil {
		return fmt.Errorf("writing the template: %w", err)
	}
	defer func() { _ = os.Remove(f.Name()) }()
	_, err = f.Write(text)
	if err := errors.Join(err, f.Chmod(0o644), f.Close()); err != nil { //nolint:gosec // it holds no secret, and limactl may run as another user
		return fmt.Errorf("writing the template: %w", err)
	}
	if err := v.limactl(ctx, t, progress, "start", "--tty=false", "--name="+v.opts.Instance, f.Name()); err != nil {
		return err
	}
	s, err := v.State(ctx, t)
	if err != nil {
		return err
	}
	return v.check(s)
}

// check refuses a virtual machine that exposes the host, such as one of the user's own.
func (v *VM) check(s State) error {
	if s.Unsafe == "" {
		return nil
	}
	return machine.Errorf("lima.instance", "take another name with MVM_LIMA_INSTANCE, and mvmctl makes one of its own. "+v.deleting(),
		"the Lima instance %s is not as mvmctl makes it: %s", v.opts.Instance, s.Unsafe)
}

// deleting says what it costs to make the virtual machine anew.
func (v *VM) deleting() string {
	return fmt.Sprintf("`limactl delete --force %s` would delete all that is in it, with the disks of all machines that mvmctl has there (`mvmctl ls -a`) and whatever else you keep in it", v.opts.Instance)
}

// lockFile is where the lock of making and starting the virtual machine is, "" for nowhere. While
// somebody does that the file says who.
func (v *VM) lockFile() string {
	if v.opts.LockDir == "" || !PlainName(v.opts.Instance) {
		return ""
	}
	return filepath.Join(v.opts.LockDir, "lima-"+v.opts.Instance+".lock")
}

// lock takes the lock of making and starting the virtual machine.
func (v *VM) lock(ctx context.Context, words io.Writer) (unlock func(), err error) {
	path := v.lockFile()
	if path == "" {
		return func() {}, nil
	}
	if err := os.MkdirAll(v.opts.LockDir, 0o700); err != nil {
		return nil, machine.Errorf("state.readonly", "make the state folder writable", "locking the Lima instance %s: %w", v.opts.Instance, err)
	}
	if unlock, err = flock.TryLock(path); err != nil {
		return nil, machine.Errorf("state.readonly", "make the state folder writable", "locking the Lima instance %s: %w", v.opts.Instance, err)
	}
	if unlock != nil {
		_ = os.Truncate(path, 0) // what it says is of a holder that was killed
		return unlock, nil
	}
	if by := holder(path); by != "" && words != nil {
		_, _ = fmt.Fprintf(words, "waiting for %s\n", v.doing(by))
	}
	waiting, cancel := context.WithTimeout(ctx, startTime)
	defer cancel()
	unlock, err = flock.Lock(waiting, path)
	if err != nil && ctx.Err() == nil {
		return nil, machine.Errorf("lima.busy", "wait for it to finish, or end it, then try again", "%s has not finished: %w", v.doing(holder(path)), err)
	}
	return unlock, err
}

// claim notes who makes or starts the virtual machine, and does it while done is not called. Its lock
// is held.
func (v *VM) claim(doing string) (done func()) {
	path := v.lockFile()
	if path == "" {
		return func() {}
	}
	_ = os.WriteFile(path, fmt.Appendf(nil, "%d %s\n", os.Getpid(), doing), 0o600)
	return func() { _ = os.Truncate(path, 0) }
}

// settle waits until nobody makes or starts the virtual machine any more: it runs before it can be
// talked to.
func (v *VM) settle(ctx context.Context, words io.Writer) error {
	if path := v.lockFile(); path == "" || holder(path) == "" {
		return nil
	}
	unlock, err := v.lock(ctx, words)
	if err != nil {
		return err
	}
	unlock()
	return nil
}

// holder says who makes or starts the virtual machine: a process and a word, or "".
func holder(path string) string {
	data, err := os.ReadFile(path)
	if err != nil || len(data) > 100 {
		return ""
	}
	return machine.Printable(strings.TrimSpace(string(data)))
}

// doing makes a sentence of what holder returns.
func (v *VM) doing(by string) string {
	if pid, what, ok := strings.Cut(by, " "); ok {
		return fmt.Sprintf("mvmctl (process %s), which %s the Lima instance %s", pid, what, v.opts.Instance)
	}
	return fmt.Sprintf("another mvmctl, which looks at the Lima instance %s", v.opts.Instance)
}
