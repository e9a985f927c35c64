// Command bench measures mvmctl against yardsticks in the same run and prints ratios: a shared,
// noisy machine makes absolute times mean little. `just bench` runs it; docs/performance.md
// keeps what was measured. It is not a test: nothing fails here.
package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
)

func main() { os.Exit(run()) }

func run() int {
	runs := flag.Int("runs", 200, "runs of the quick measurements; slow ones take a twentieth, at least 10")
	only := flag.String("only", "", "comma-separated sections: cli, boot, exec, bulk, memory, images, kernel, docker")
	serve := flag.String("registry", "", "serve a registry with its blobs in this `folder`, for the section images")
	flag.Parse()
	if *serve != "" {
		return registryServer(*serve)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer stop()
	dir, err := os.MkdirTemp("", "mvm-bench-*")
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	b := &bench{runs: *runs, dir: dir, bin: dir + "/mvmctl", agent: dir + "/mvm-agent", empty: dir + "/empty"}
	defer b.close()
	if err := b.build(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		return 1
	}
	fmt.Printf("# mvmctl bench: %s/%s, %d CPUs, %s\n", runtime.GOOS, runtime.GOARCH, runtime.NumCPU(), b.host())
	for _, s := range []struct {
		name string
		run  func(context.Context) error
	}{{"cli", b.cli}, {"boot", b.boot}, {"exec", b.exec}, {"bulk", b.bulk}, {"memory", b.memory}, {"images", b.images}, {"kernel", b.kernel}, {"docker", b.docker}} {
		if *only != "" && !strings.Contains(","+*only+",", ","+s.name+",") {
			continue
		}
		fmt.Printf("\n## %s\n", s.name)
		if err := s.run(ctx); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", s.name, err)
			return 1
		}
	}
	return 0
}

// bench is one run: programs built for it and a user's world of its own.
type bench struct {
	runs  int
	dir   string
	bin   string // mvmctl
	agent string // guest agent
	empty string // a Go program that does nothing
	env   []string
}

// build makes the programs and the environment that they run in.
func (b *bench) build(ctx context.Context) error {
	src := filepath.Join(b.dir, "src")
	if err := os.Mkdir(src, 0o700); err != nil {
		return err
	}
	for name, text := range map[string]string{"go.mod": "module empty\n\ngo 1.26\n", "main.go": "package main\n\nfunc main() {}\n"} {
		if err := os.WriteFile(filepath.Join(src, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	for _, build := range []struct{ dir, out, pkg string }{
		{".", b.bin, "./cmd/mvmctl"}, {".", b.agent, "./cmd/mvm-agent"}, {src, b.empty, "."},
	} {
		cmd := exec.CommandContext(ctx, "go", "build", "-trimpath", "-ldflags=-s -w", "-o", build.out, build.pkg)
		cmd.Dir = build.dir
		cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("building %s: %w\n%s", build.pkg, err, out)
		}
	}
	for _, kv := range os.Environ() {
		if !strings.HasPrefix(kv, "MVM_") || strings.HasPrefix(kv, "MVM_CACHE_DIR=") {
			b.env = append(b.env, kv)
		}
	}
	b.env = append(b.env, "MVM_STATE_DIR="+b.dir+"/state", "MVM_DATA_DIR="+b.dir+"/data", "MVM_CONFIG_DIR="+b.dir+"/config",
		"MVM_RUNTIME_DIR="+b.dir+"/run", "MVM_AGENT="+b.agent)
	return nil
}

// close ends the machine and removes everything, also after a signal.
func (b *bench) close() {
	if _, err := os.Stat(b.dir + "/state/machines/bench"); err != nil {
		_ = os.RemoveAll(b.dir)
		return
	}
	if out, err := b.mvmctl(context.Background(), "rm", "--force", "bench"); err != nil && !strings.Contains(out, "no machine") {
		fmt.Fprintln(os.Stderr, "bench: cleaning up:", err, out)
	}
	_ = os.RemoveAll(b.dir)
}

// slow is the number of runs of a measurement that boots a machine.
func (b *bench) slow() int { return max(b.runs/20, 10) }

func (b *bench) host() string {
	data, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return "unknown CPU"
	}
	for line := range strings.SplitSeq(string(data), "\n") {
		if k, v, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(k) == "model name" {
			return strings.TrimSpace(v)
		}
	}
	return "unknown CPU"
}

// mvmctl runs one command and returns everything it printed.
func (b *bench) mvmctl(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.Env = b.env
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("mvmctl %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return string(out), nil
}

// answer runs one command and returns what it printed on standard output.
func (b *bench) answer(ctx context.Context, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, b.bin, args...)
	cmd.Env = b.env
	var said strings.Builder
	cmd.Stderr = &said
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("mvmctl %s: %w: %s", strings.Join(args, " "), err, said.String())
	}
	return strings.TrimSpace(string(out)), nil
}
