package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"
)

// patience is how long a child may take to end after being asked to, before it is killed.
const patience = 5 * time.Second

// command prepares a child in a process group of its own, so that an interrupt ends it with
// everything that it started and nothing else.
func command(ctx context.Context, args []string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = patience
	return cmd
}

// reap kills what a cancelled child's group still has.
func reap(ctx context.Context, cmd *exec.Cmd) {
	if ctx.Err() != nil && cmd.Process != nil {
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) // ESRCH: all gone, as it should be
	}
}

// runStep runs one command and shows its output only when it fails.
func runStep(ctx context.Context, dir, name string, args []string) (bool, error) {
	start := time.Now()
	cmd := command(ctx, args)
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	err := cmd.Run()
	reap(ctx, cmd)
	r := Result{Name: name, Elapsed: time.Since(start)}
	if err != nil {
		fmt.Printf("FAIL %s: %v (%s)\n%s", name, err, seconds(r.Elapsed), indent(shorten(out.String(), 100)))
		r.Failed = []string{fmt.Sprintf("%s: %v", name, err)}
	} else {
		fmt.Printf("ok   %s (%s)\n", name, seconds(r.Elapsed))
	}
	return err != nil, save(dir, r)
}

// shorten leaves out the middle of what is longer than so many lines.
func shorten(s string, lines int) string {
	all := strings.Split(strings.TrimRight(s, "\n"), "\n")
	if len(all) <= lines {
		return s
	}
	left := fmt.Sprintf("… %d lines left out …", len(all)-lines)
	return strings.Join(slices.Concat(all[:lines/2], []string{left}, all[len(all)-lines/2:]), "\n")
}

// runTest runs go test and reads its JSON as it comes.
func runTest(ctx context.Context, dir, name string, args []string) (bool, error) {
	r, err := goTest(ctx, name, args)
	if err != nil {
		return false, err
	}
	return len(r.Failed) > 0, save(dir, r)
}

// goTest is `go test -json args…`, reported on stdout.
func goTest(ctx context.Context, name string, args []string) (Result, error) {
	fmt.Printf("==   %s\n", name)
	start := time.Now()
	cmd := command(ctx, append([]string{"go", "test", "-json"}, args...))
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		return Result{}, err
	}
	if err := cmd.Start(); err != nil {
		return Result{}, err
	}
	rep := newReport(printer{})
	events := make(chan Event)
	readErr := make(chan error, 1)
	go func() {
		defer close(events)
		readErr <- readEvents(stdout, events)
	}()
	rep.follow(events, time.Minute)
	_, _ = io.Copy(io.Discard, stdout)
	waitErr := cmd.Wait()
	reap(ctx, cmd)

	r := rep.result(name)
	r.Elapsed = time.Since(start)
	var exit *exec.ExitError
	switch {
	case ctx.Err() != nil:
		r.Failed = append(r.Failed, name+": interrupted")
	case <-readErr != nil:
		r.Failed = append(r.Failed, name+": unreadable output of go test")
	case rep.late && errors.As(waitErr, &exit):
		fmt.Println("     the go command stopped late and found nothing (go.dev/issue/75804)")
	case waitErr != nil && (len(r.Failed) == 0 || !errors.As(waitErr, &exit)):
		fmt.Print(indent(stderr.String()))
		r.Failed = append(r.Failed, fmt.Sprintf("%s: go test: %v", name, waitErr))
	case waitErr != nil && stderr.Len() > 0:
		fmt.Print(indent(stderr.String()))
	}
	return r, nil
}
