package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// engineTime bounds the start and the end of an engine.
const engineTime = time.Minute

// docker measures a warm `exec -- true` in a container against the engine's own `docker exec` of the
// same program in the same container. Without an engine it starts one, where that can be done.
func (b *bench) docker(ctx context.Context) (err error) {
	if _, err := exec.LookPath("docker"); err != nil {
		fmt.Println("left out: there is no docker command")
		return nil
	}
	env, stop, err := b.engine(ctx)
	if err != nil {
		fmt.Println("left out:", err)
		return nil
	}
	defer stop()
	apart := *b // its state too, so that close finds nothing of an engine that has ended
	apart.env = append(append([]string(nil), env...), "MVM_STATE_DIR="+b.dir+"/docker-state", "MVM_HYPERVISOR=docker")
	if _, err := apart.mvmctl(ctx, "up", "-d", "--name", "bench", "minimal"); err != nil {
		return err
	}
	defer func() {
		if out, rerr := apart.mvmctl(context.WithoutCancel(ctx), "rm", "--force", "bench"); rerr != nil && err == nil {
			err = fmt.Errorf("cleaning up: %w: %s", rerr, out)
		}
	}()
	list := exec.CommandContext(ctx, "docker", "ps", "-q", "--filter", "label=io.mvmctl.name=bench")
	list.Env = env
	out, err := list.Output()
	container := strings.TrimSpace(string(out))
	if err != nil || container == "" {
		return fmt.Errorf("the machine's container is not to be found: %w", err)
	}
	ours, theirs := &sample{name: "mvmctl exec bench -- true, in a container"}, &sample{name: "docker exec"}
	for i := range b.runs + 5 {
		a, err := timed(ctx, apart.env, b.bin, "exec", "bench", "--", "true")
		if err != nil {
			return err
		}
		d, err := timed(ctx, env, "docker", "exec", container, "/run/mvm/bin/true")
		if err != nil {
			return err
		}
		if i < 5 {
			continue
		}
		ours.add(a)
		theirs.add(d)
	}
	theirs.print(nil)
	ours.print(theirs)
	return nil
}

// engine returns the environment in which docker reaches an engine: the user's, or one of our own
// until stop.
func (b *bench) engine(ctx context.Context) (env []string, stop func(), err error) {
	asking, cancel := context.WithTimeout(ctx, engineTime)
	defer cancel()
	if _, err := timed(asking, b.env, "docker", "info"); err == nil {
		return b.env, func() {}, nil
	}
	if _, err := exec.LookPath("dockerd"); err != nil || os.Geteuid() != 0 {
		return nil, nil, fmt.Errorf("no Docker engine answers, and only root with dockerd can start one")
	}
	dir := filepath.Join(b.dir, "d") // short, for its socket
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(dir+"/config.json", []byte("{}"), 0o600); err != nil { // not the host's
		return nil, nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "dockerd", "--host", "unix://"+dir+"/s", "--data-root", dir+"/data", "--exec-root", dir+"/exec",
		"--pidfile", dir+"/pid", "--config-file", dir+"/config.json", "--storage-driver", "vfs", "--bridge", "none", "--iptables=false", "--ip-forward=false")
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // Ctrl-C is for us: we end it in order
	said, err := cmd.StderrPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return nil, nil, err
	}
	done := make(chan struct{})
	stop = func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		late := time.AfterFunc(engineTime, func() { _ = cmd.Process.Kill() })
		defer late.Stop()
		<-done
		_ = cmd.Wait() // SIGTERM is no failure
	}
	ready := make(chan bool, 1)
	go func() {
		defer close(done)
		for lines := bufio.NewScanner(said); lines.Scan(); {
			if strings.Contains(lines.Text(), "API listen on ") {
				ready <- true
				_, _ = io.Copy(io.Discard, said)
				return
			}
		}
		ready <- false
	}()
	select {
	case ok := <-ready:
		if ok {
			return append(append([]string(nil), b.env...), "DOCKER_HOST=unix://"+dir+"/s", "DOCKER_CONFIG="+dir), stop, nil
		}
		err = fmt.Errorf("dockerd does not start")
	case <-asking.Done():
		err = asking.Err()
	}
	stop()
	return nil, nil, err
}
