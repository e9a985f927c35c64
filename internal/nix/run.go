package nix

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

const (
	maxOutput = 4 << 20          // of nix's standard output
	endGrace  = 10 * time.Second // SIGTERM → SIGKILL; nix undoes a half-made download meanwhile
)

// failure is nix's own word that something went wrong; explain turns it into a machine.Error.
type failure struct {
	err    error    // how the process ended
	causes []string // nix's errors, the decisive one last
	tail   []string // the last lines of everything
}

func (f *failure) Error() string {
	if len(f.causes) > 0 {
		return f.causes[len(f.causes)-1]
	}
	return "nix failed: " + f.err.Error()
}

func (f *failure) Unwrap() error { return f.err }

// command returns nix's arguments. Flakes are still called experimental; asking for them changes
// no settings of the user's.
func command(args []string) []string {
	return slices.Concat([]string{"--extra-experimental-features", "nix-command flakes", "--log-format", "internal-json"}, args)
}

// run runs nix to its end and returns its standard output. The error is a *failure when nix
// itself failed.
func run(ctx context.Context, o Options, args []string) ([]byte, error) {
	if o.Linux != nil {
		return elsewhere(ctx, o, args)
	}
	program := o.Program
	if program == "" {
		program = "nix"
	}
	program, err := exec.LookPath(program)
	if err != nil {
		return nil, missing(err)
	}
	cmd := exec.CommandContext(ctx, program, command(args)...)
	cmd.Env = environment(os.Environ())
	// Its own group, so that builders and git end with it, and a Ctrl-C at the terminal reaches
	// it through us, once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM) }
	cmd.WaitDelay = endGrace
	var out limited
	cmd.Stdout = &out
	// Our own pipe: with one of exec's, Wait would close it under the reader.
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	cmd.Stderr = w
	err = cmd.Start()
	w.Close()
	if err != nil {
		return nil, machine.Errorf("nix.broken", "run "+program+" --version; if it fails, install Nix anew: https://nixos.org/download", "nix cannot be started: %w", err)
	}
	log := newLog(o.Progress)
	read := make(chan struct{})
	go func() {
		defer close(read)
		log.read(r)
	}()
	err = cmd.Wait()
	// Whatever outlived nix in its group. Its number is not another's: what is left of the group
	// keeps it taken, and without that a number just freed is handed out last.
	_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	// A process that left the group may hold the pipe for ever; what nix said is there already.
	_ = r.SetReadDeadline(time.Now().Add(time.Second))
	<-read
	switch {
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case err != nil:
		return nil, &failure{err: err, causes: log.causes, tail: log.tail}
	case out.over:
		return nil, machine.Errorf("nix.protocol", "run nix by hand to see what it prints", "nix printed more than %d MiB", maxOutput>>20)
	}
	return out.Bytes(), nil
}

// limited keeps the first maxOutput bytes.
// It embeds no buffer, whose ReadFrom would be used instead of Write.
type limited struct {
	buf  bytes.Buffer
	over bool
}

func (l *limited) String() string { return l.buf.String() }

func (l *limited) Bytes() []byte { return l.buf.Bytes() }

// Write implements io.Writer.
func (l *limited) Write(p []byte) (int, error) {
	n := len(p)
	if room := maxOutput - l.buf.Len(); n > room {
		p, l.over = p[:room], true
	}
	l.buf.Write(p)
	return n, nil
}

// environment leaves what nix, and the git and ssh that it may start, need: where things are,
// certificates, proxies. The rest of the user's environment is none of a build's business.
func environment(env []string) []string {
	keep := []string{
		"HOME", "USER", "LOGNAME", "PATH", "TMPDIR", "TZ", "SSL_CERT_FILE", "SSL_CERT_DIR", "CURL_CA_BUNDLE",
		"SSH_AUTH_SOCK", "GIT_SSH", "GIT_SSH_COMMAND", "GIT_SSL_CAINFO", "GIT_CONFIG_GLOBAL",
		"XDG_CACHE_HOME", "XDG_CONFIG_HOME", "XDG_CONFIG_DIRS", "XDG_DATA_HOME", "XDG_STATE_HOME", "XDG_RUNTIME_DIR",
		"HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY",
	}
	var out []string
	for _, e := range env {
		name, _, _ := strings.Cut(e, "=")
		if strings.HasPrefix(name, "NIX_") || slices.Contains(keep, name) || slices.Contains(keep, strings.ToUpper(name)) {
			out = append(out, e)
		}
	}
	// Messages of git and other helpers are read by people and by our hints.
	return append(out, "LC_ALL=C", "GIT_TERMINAL_PROMPT=0")
}

// read takes nix's standard error apart, line by line. A line longer than maxLine is dropped.
func (l *log) read(r io.Reader) {
	br := bufio.NewReaderSize(r, maxLine)
	for {
		line, err := br.ReadSlice('\n')
		if errors.Is(err, bufio.ErrBufferFull) {
			for errors.Is(err, bufio.ErrBufferFull) {
				_, err = br.ReadSlice('\n')
			}
			line = nil
		}
		if len(line) > 0 {
			l.line(bytes.TrimRight(line, "\r\n"))
		}
		if err != nil {
			return
		}
	}
}
