package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/creack/pty"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
)

// asked is a machine that is asked questions, in its lab.
type asked struct {
	*lab
	source []string // what `up` makes it of
}

// question is one that a machine of any backend has to answer, and the answer.
type question struct {
	name string
	want string
	ask  func(m asked) string
	// differs has the backends that honestly answer otherwise, and how. One that answers like
	// the others after all fails the test.
	differs map[string]string
}

// sh runs a script in the machine and returns what it printed.
func (m asked) sh(script string) string {
	m.t.Helper()
	r := m.run("exec", "m", "--", "sh", "-c", script)
	if r.code != 0 {
		return r.String()
	}
	return r.stdout
}

// logged returns the lines of the machine's log that begin with a word.
func (m asked) logged(word string) string {
	m.t.Helper()
	var out string
	for line := range strings.Lines(m.must("logs", "m")) {
		if strings.HasPrefix(line, word) {
			out += line
		}
	}
	return out
}

func inGuest(script string) func(asked) string {
	return func(m asked) string { m.t.Helper(); return m.sh(script) }
}

const questionServer = `#!/usr/bin/perl
use IO::Socket::INET; $| = 1;
$SIG{TERM} = sub { print "told to stop\n"; exit 7 };
my $s = IO::Socket::INET->new(LocalPort => 8080, Listen => 5, ReuseAddr => 1) or die "no socket: $!";
use Cwd; print "serving as @ARGV, user $< of ", 0 + $(, ", in ", getcwd(), ", HOME $ENV{HOME}, COLOR $ENV{COLOR}\n";
while (my $c = $s->accept) { my $line = <$c>; print $c "answer to $line"; close $c }
`

func questions() []question {
	return []question{
		{
			name: "what its files are", ask: inGuest(`cd /q && sha256sum text bytes`),
			want: fmt.Sprintf("%x  text\n%x  bytes\n", sha256.Sum256([]byte("some text\n")), sha256.Sum256(questionBytes())),
		},
		{
			name: "whose they are", ask: inGuest(`cd /q && stat -c '%n %a %u:%g %F %s' text suid sticky owned`),
			want: "text 644 0:0 regular file 10\nsuid 4755 0:0 regular file 3\nsticky 1777 0:0 directory 4096\nowned 640 1234:4321 regular file 6\n",
		},
		{
			name: "where its links lead", ask: inGuest(`cd /q && readlink soft && stat -c %h text && [ text -ef hard ] && echo same`),
			want: "text\n2\nsame\n",
		},
		{name: "when they were written", ask: inGuest(`stat -c %y /q/text`), want: "2001-09-09 01:46:40.000000000 +0000\n"},
		{
			name: "its search path", ask: inGuest(`echo $PATH`), want: "/usr/sbin:/usr/bin:/sbin:/bin:/run/mvm/bin\n",
			differs: map[string]string{"microvm.nix": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/run/mvm/bin\n"}, // the image does not say it
		},
		{
			name: "another user", ask: func(m asked) string { return m.must("exec", "--user", "asker", "m", "--", "id") },
			want: "uid=1234(asker) gid=4321(askers) groups=4321(askers)\n",
		},
		{name: "what that user may not do", ask: func(m asked) string {
			return m.must("exec", "--user", "asker", "m", "--", "sh", "-c", "touch /etc/x 2>&1; grep CapEff /proc/self/status")
		}, want: "touch: cannot touch '/etc/x': Permission denied\nCapEff:\t0000000000000000\n"},
		{name: "who is process 1", ask: inGuest(`cat /proc/1/comm`), want: "init\n", differs: map[string]string{"docker": "mvm-agent\n"}}, // the kernel starts it as /init
		{name: "its name", ask: inGuest(`hostname`), want: "m\n"},
		{name: "through a published port", ask: askPort, want: "answer to me\n"},
		{
			name: "as whom its program runs, where and with what", ask: func(m asked) string { return m.logged("serving") },
			want: "serving as a b c, user 1234 of 4321, in /srv/work, HOME /home/asker, COLOR blue\n",
			// Its flake says what such a machine runs, no image does.
			differs: map[string]string{"microvm.nix": ""},
		},
		{name: "an exit code", want: "42", ask: func(m asked) string { return strconv.Itoa(m.run("exec", "m", "--", "sh", "-c", "exit 42").code) }},
		{name: "a signal", want: "143", ask: func(m asked) string {
			return strconv.Itoa(m.run("exec", "m", "--", "sh", "-c", "kill -TERM $$").code)
		}},
		{name: "on both streams", want: "out|err", ask: func(m asked) string {
			r := m.run("exec", "m", "--", "sh", "-c", "printf out; printf err >&2")
			return r.stdout + "|" + r.stderr
		}},
		{name: "what it is given", want: fmt.Sprintf("%x", sha256.Sum256(questionBytes())), ask: func(m asked) string {
			return strings.Fields(m.withInput(string(questionBytes()), "exec", "m", "--", "sha256sum").stdout + " none")[0]
		}},
		{name: "a terminal of a size", ask: askTerminal, want: "33 101"},
		{name: "a file in and out", ask: askCopy, want: "the same"},
		{name: "the time", ask: askTime, want: "as here"},
		{name: "what it changed", ask: func(m asked) string {
			m.sh(`mkdir /tmp/d && echo new > /tmp/d/f`)
			m.must("exec", "m", "--", "sh", "-c", "echo more >> /q/owned; rm /q/bytes")
			var out []string
			for line := range strings.Lines(m.must("diff", "m")) {
				if strings.Contains(line, " /q/") || strings.Contains(line, " /tmp/d") {
					out = append(out, line)
				}
			}
			slices.Sort(out)
			return strings.Join(out, "")
		}, want: "A /tmp/d\nA /tmp/d/f\nD /q/bytes\nM /q/owned\n"},
		{name: "how it stopped", ask: askStop, want: "told to stop|7", differs: map[string]string{"microvm.nix": "|none"}},
		{name: "what is there after a restart", want: "new\nowned\nmore\n", ask: func(m asked) string {
			m.must("up", "-d", "--name", "m")
			return m.sh("cat /tmp/d/f /q/owned; ls /q/bytes 2>/dev/null; true")
		}},
		{name: "what a volume keeps", ask: askVolume, want: "kept\n", differs: map[string]string{"microvm.nix": "runner.setting"}},
	}
}

func questionBytes() []byte { return bytes.Repeat([]byte("\x00\xff\r\n\x1b"), 200_000) }

func askPort(m asked) string {
	conn, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", m.machine("m").Ports[0].HostPort))
	if err != nil {
		return err.Error()
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(longWait))
	fmt.Fprintln(conn, "me")
	data, err := io.ReadAll(conn)
	if err != nil {
		return err.Error()
	}
	return string(data)
}

func askTerminal(m asked) string {
	ctx, cancel := context.WithTimeout(m.t.Context(), commandTime)
	defer cancel()
	cmd := m.command(ctx, []string{"TERM=xterm"}, "exec", "-it", "m", "--", "stty", "size")
	f, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 33, Cols: 101})
	if err != nil {
		return err.Error()
	}
	defer f.Close()
	out, _ := io.ReadAll(f) // ends with EIO
	_ = cmd.Wait()
	return regexp.MustCompile(`\d+ \d+|$`).FindString(string(out))
}

func askCopy(m asked) string {
	in, out := filepath.Join(m.dir, "in"), filepath.Join(m.dir, "out")
	if err := os.WriteFile(in, questionBytes(), 0o640); err != nil {
		return err.Error()
	}
	m.must("cp", in, "m:/tmp/copy")
	m.must("cp", "m:/tmp/copy", out)
	if got, err := os.ReadFile(out); err != nil || !bytes.Equal(got, questionBytes()) {
		return fmt.Sprintf("%d bytes, %v", len(got), err)
	}
	return "the same"
}

func askTime(m asked) string {
	before := time.Now()
	seconds, err := strconv.ParseInt(strings.TrimSpace(m.sh("date +%s")), 10, 64)
	if there := time.Unix(seconds, 0); err != nil || there.Before(before.Add(-5*time.Second)) || there.After(time.Now().Add(5*time.Second)) {
		return fmt.Sprintf("%v, here %v, %v", there, before, err)
	}
	return "as here"
}

func askStop(m asked) string {
	m.must("down", "m")
	said := strings.TrimSpace(m.logged("told"))
	code := "none"
	if v := m.machine("m"); v != nil && v.ExitCode != nil {
		code = strconv.Itoa(*v.ExitCode)
	}
	return said + "|" + code
}

// askVolume writes to a volume in one machine and reads it in another.
func askVolume(m asked) string {
	m.must("rm", "--force", "m")
	defer m.run("volume", "rm", "kept")
	var answer string
	for _, script := range []string{"echo kept > /vol/f", "cat /vol/f"} {
		r := m.run(append([]string{"up", "-d", "--json", "--name", "m", "-v", "kept:/vol"}, m.source...)...)
		if code := regexp.MustCompile(`"code":"([^"]*)"`).FindStringSubmatch(r.stderr); r.code != 0 && code != nil {
			return code[1]
		}
		if r.code != 0 {
			return r.String()
		}
		answer = m.sh(script)
		m.must("rm", "--force", "m")
	}
	return answer
}

// questionImage pushes the image that all backends boot, unless it came along.
func questionImage(t *testing.T) string {
	t.Helper()
	if os.Getenv("MVM_QUESTIONS") != "" {
		return questionName
	}
	img := makeQuestions(t)
	if _, err := exec.LookPath("docker-registry"); err != nil {
		t.Skip("missing: docker-registry (scripts/dev-setup.sh installs it)")
	}
	ref := startRegistry(t) + "/team/" + questionName
	r, err := name.ParseReference(ref)
	if err == nil {
		err = remote.Write(r, img)
	}
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

const questionName = "questions:1"

// makeQuestions makes the image.
func makeQuestions(t *testing.T) v1.Image {
	t.Helper()
	if _, err := exec.LookPath("debootstrap"); err != nil {
		t.Skip("missing: debootstrap (scripts/dev-setup.sh installs it)")
	}
	if os.Geteuid() != 0 {
		t.Skip("missing: root, without which debootstrap makes no Debian")
	}
	file := func(path, text string, mode int64, uid, gid int) tarEntry {
		return tarEntry{tar.Header{
			Name: path, Typeflag: tar.TypeReg, Mode: mode, Uid: uid, Gid: gid, Size: int64(len(text)), ModTime: time.Unix(1_000_000_000, 0),
		}, text}
	}
	link := func(path, target string, kind byte) tarEntry {
		return tarEntry{tar.Header{Name: path, Typeflag: kind, Linkname: target, Mode: 0o777}, ""}
	}
	base := debianLayer(t)
	return containerImage(t, v1.Config{
		Entrypoint: []string{"/usr/bin/perl", "/q/server", "a"}, Cmd: []string{"b", "c"}, User: "asker", WorkingDir: "/srv/work",
		Env: []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "COLOR=blue"}, ExposedPorts: map[string]struct{}{"8080/tcp": {}},
	}, base, smallLayer(t,
		file("etc/passwd", "root:x:0:0:root:/root:/bin/sh\nasker:x:1234:4321::/home/asker:/bin/sh\n", 0o644, 0, 0),
		file("etc/group", "root:x:0:\naskers:x:4321:\n", 0o644, 0, 0),
		tarDir("home/asker", 0o750, 1234, 4321), tarDir("q", 0o755, 0, 0), tarDir("q/sticky", 0o1777, 0, 0),
		file("q/text", "some text\n", 0o644, 0, 0), file("q/bytes", string(questionBytes()), 0o644, 0, 0),
		file("q/suid", "no\n", 0o4755, 0, 0), file("q/owned", "owned\n", 0o640, 1234, 4321), file("q/server", questionServer, 0o755, 0, 0),
		link("q/soft", "text", tar.TypeSymlink), link("q/hard", "q/text", tar.TypeLink),
	))
}

// One image, booted on every backend that this host has, gives the same answers to the same
// questions, and is the same afterwards.
func TestSameAnswersOnEveryBackend(t *testing.T) {
	ref := questionImage(t)
	backends := map[string]func(t *testing.T) asked{
		"qemu":   func(t *testing.T) asked { l := newLab(t, "qemu", false); l.ownCache(); return asked{l, []string{ref}} },
		"docker": func(t *testing.T) asked { l, _ := inDocker(t, false); return asked{l, []string{ref}} },
		"firecracker": func(t *testing.T) asked {
			l := newLab(t, "firecracker", false)
			l.ownCache()
			l.needBackend("firecracker")
			return asked{l, []string{ref}}
		},
		"microvm.nix": func(t *testing.T) asked { return runnerOf(t, ref) },
		"lima": func(t *testing.T) asked {
			l := inLima(t)
			l.must("doctor", "--fix")
			return asked{l.lab, []string{ref}}
		},
	}
	digests := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(backends)) {
		t.Run(name, func(t *testing.T) {
			m := backends[name](t)
			l := m.lab
			if from := os.Getenv("MVM_QUESTIONS"); from != "" {
				l.must("image", "pull", from, "-t", ref)
			}
			l.must(append([]string{"up", "-d", "--timeout", "5m", "--name", "m", "-p", "0:8080"}, m.source...)...)
			digests[name] = l.imageID(ref)
			t.Logf("%s, isolation %s", name, l.machine("m").Isolation)
			if name == "microvm.nix" {
				m.serve()
			} else {
				l.awaitGuest(func() bool { return m.logged("serving") != "" })
			}
			for _, q := range questions() {
				t.Run(q.name, func(t *testing.T) {
					inner := *l
					inner.t = t
					answer, want := q.ask(asked{&inner, m.source}), q.want
					if other, declared := q.differs[name]; declared {
						if answer == want {
							t.Errorf("it answers like the others now: no difference is to be declared")
						}
						want = other
					}
					if answer != want {
						t.Errorf("it answers %q, want %q", answer, want)
					}
				})
			}
			l.run("rm", "--force", "m")
			l.must("image", "verify")
			if id := l.imageID(ref); id != digests[name] {
				t.Errorf("the image was %s and is %s", digests[name], id)
			}
			l.nothingLeft()
		})
	}
	seen := slices.Compact(slices.Sorted(maps.Values(digests)))
	if len(seen) > 1 {
		t.Errorf("the image has different digests: %v", digests)
	}
	if want := os.Getenv("MVM_QUESTIONS_ID"); want != "" && !slices.Equal(seen, []string{want}) {
		t.Errorf("the image is %v, where it was made it was %s", digests, want)
	}
}

// runnerOf makes a flake whose machine's root file system is the image, as the store has it.
func runnerOf(t *testing.T, ref string) asked {
	l := newRunnerLab(t, ref)
	dir := l.machines("vm", map[string]runner{"m": l.withAgent("m")})
	return asked{l.lab, []string{"--hypervisor", "qemu", "--offline", "--flake", dir}}
}

// serve starts the server of the image in a machine that does not start it itself.
func (m asked) serve() {
	m.t.Helper()
	ctx, cancel := context.WithCancel(m.t.Context())
	cmd := m.command(ctx, nil, "exec", "-u", "asker", "m", "--", "perl", "/q/server")
	var trouble bytes.Buffer
	cmd.Stderr = &trouble
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		m.t.Fatal(err)
	}
	m.t.Cleanup(func() { cancel(); _ = cmd.Wait() })
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		cancel()
		_ = cmd.Wait()
		m.t.Fatalf("the server: %q, %v: %s", line, err, &trouble)
	}
}

// needBackend skips the test unless the backend can run machines here.
func (l *lab) needBackend(name string) {
	l.t.Helper()
	r := l.run("up", "-d", "--rm", "--json", "--name", "try", "minimal")
	if code := regexp.MustCompile(`"code":"(backend\.[^"]*)"`).FindString(r.stderr); r.code != 0 && code != "" {
		l.t.Skipf("missing: a host for the backend %s: %s", name, code)
	}
	if r.code != 0 {
		l.t.Fatalf("%s: %v", name, r)
	}
	l.must("rm", "--force", "try")
}

// imageID returns the digest of an image.
func (l *lab) imageID(ref string) string {
	l.t.Helper()
	var list []struct {
		Name string `json:"name"`
		ID   string `json:"id"`
	}
	if err := json.Unmarshal([]byte(l.must("image", "ls", "--json")), &list); err != nil {
		l.t.Fatal(err)
	}
	for _, i := range list {
		if i.Name == ref {
			return i.ID
		}
	}
	l.t.Fatalf("%s is not in the store", ref)
	return ""
}
