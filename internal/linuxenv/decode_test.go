package linuxenv

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"os/exec"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// printable fails the test when a text that people will see is not safe to print.
func printable(t *testing.T, what, s string, limit int) {
	t.Helper()
	if s != machine.Printable(s) {
		t.Errorf("%s has what a terminal obeys: %q", what, s)
	}
	if len(s) > limit {
		t.Errorf("%s has %d bytes, more than %d", what, len(s), limit)
	}
}

func TestParseVersion(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		major, minor int
		ok           bool
	}{
		"1.0.0": {1, 0, true}, "v1.2.1": {1, 2, true}, "2.0.0-alpha.0": {2, 0, true}, "1.0": {1, 0, true}, "1.0.0+git": {1, 0, true}, "0.23.2": {0, 23, true},
		"": {}, "1": {}, "<unknown>": {}, "1.x": {}, "a1.0": {}, "1.0x": {}, "99999.0": {}, "1.99999": {}, "-1.0": {}, "1.0\n": {},
	} {
		major, minor, ok := parseVersion(in)
		if major != want.major || minor != want.minor || ok != want.ok {
			t.Errorf("%q: %d %d %v, want %+v", in, major, minor, ok, want)
		}
	}
}

func TestPlainName(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"mvmctl": true, "a": true, "A-b_9": true, strings.Repeat("x", 63): true,
		"": false, "-a": false, "_a": false, "a b": false, "a.b": false, "a/b": false, "a=b": false, "a;b": false, "a\n": false, "é": false, strings.Repeat("x", 64): false,
	} {
		if PlainName(name) != want {
			t.Errorf("%q: %v", name, !want)
		}
	}
}

const listed = `{"name":"mvmctl","status":"Running","dir":"/l/mvmctl","config":{"plain":true,"mounts":[],"ssh":{"forwardAgent":false}}}`

func TestParseList(t *testing.T) {
	t.Parallel()
	with := func(old, text string) string { return strings.Replace(listed, old, text, 1) }
	for _, c := range []struct {
		what, list, code, status, unsafe string
	}{
		{what: "none", list: ""},
		{what: "only others", list: with("mvmctl", "default") + "\n" + with("mvmctl", "mvmctl2")},
		{what: "ours", list: listed + "\n", status: "Running"},
		{what: "after others", list: with("mvmctl", "default") + "\n" + listed, status: "Running"},
		{what: "stopped", list: with("Running", "Stopped"), status: "Stopped"},
		{what: "no configuration", list: `{"name":"mvmctl","status":"Broken"}`, status: "Broken", unsafe: "does not say"},
		{what: "not plain", list: with(`"plain":true`, `"plain":false`), status: "Running", unsafe: "not plain"},
		{what: "plain not said", list: with(`"plain":true,`, ``), status: "Running", unsafe: "not plain"},
		{what: "mounts", list: with(`"mounts":[]`, `"mounts":[{"location":"~"}]`), status: "Running", unsafe: "mounts"},
		{what: "agent", list: with(`"forwardAgent":false`, `"forwardAgent":true`), status: "Running", unsafe: "ssh agent"},
		{what: "a strange status", list: with("Running", `\u001b[31m`+strings.Repeat("x", 100)), status: "·[31m" + strings.Repeat("x", 34) + "…"},
		{what: "nonsense", list: "level=fatal", code: "lima.broken"},
		{what: "cut off", list: listed[:len(listed)-3], code: "lima.broken"},
		{what: "other types", list: `{"name":7}`, code: "lima.broken"},
	} {
		s, err := parseList([]byte(c.list), "mvmctl")
		if machine.CodeOf(err) != c.code || s.Status != c.status || (s.Unsafe == "") != (c.unsafe == "") || !strings.Contains(s.Unsafe, c.unsafe) {
			t.Errorf("%s: %+v, %v; want %+v", c.what, s, err, c)
		}
	}
}

func TestFrames(t *testing.T) {
	t.Parallel()
	var b bytes.Buffer
	whole := bytes.Repeat([]byte{7}, MaxFrame)
	for _, p := range [][]byte{nil, []byte("one"), whole} {
		if err := WriteFrame(&b, 'k', p); err != nil {
			t.Fatal(err)
		}
	}
	if err := WriteFrame(io.Discard, 'k', append(whole, 0)); err == nil {
		t.Error("a frame that is too large was written")
	}
	sent := b.Bytes()
	for _, want := range [][]byte{nil, []byte("one"), whole} {
		kind, p, err := ReadFrame(&b)
		if err != nil || kind != 'k' || !bytes.Equal(p, want) {
			t.Errorf("%d bytes of kind %c, %v", len(p), kind, err)
		}
	}
	if _, _, err := ReadFrame(&b); !errors.Is(err, io.EOF) {
		t.Errorf("the end of the stream: %v", err)
	}
	for _, cut := range []int{1, 4, 5 + 5 + 1, len(sent) - 1} { // in a head, and in what follows it
		r := bytes.NewReader(sent[:cut])
		var err error
		for err == nil {
			_, _, err = ReadFrame(r)
		}
		if !errors.Is(err, io.ErrUnexpectedEOF) {
			t.Errorf("cut after %d bytes: %v", cut, err)
		}
	}
	if _, _, err := ReadFrame(strings.NewReader("k\xff\xff\xff\xff")); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

func TestAwaitGreeting(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 100<<10)
	for what, c := range map[string]struct {
		in, build string
		fails     bool
	}{
		"at once":               {in: greeting + "1.0\nrest", build: "1.0"},
		"after a banner":        {in: "Welcome.\n\n" + greeting + "1.0\nrest", build: "1.0"},
		"after half a line":     {in: "prompt$ " + greeting + "1.0\nrest", build: "1.0"},
		"after a long line":     {in: strings.Repeat("x", 40<<10) + "\n" + greeting + "1.0\nrest", build: "1.0"},
		"with what is no text":  {in: greeting + "\x1b[31m\n", build: "·[31m"},
		"with half a letter":    {in: greeting + "x" + strings.Repeat("é", 500) + "\n", build: "x" + strings.Repeat("é", 39) + "…"},
		"with a build too long": {in: greeting + strings.Repeat("b", 500) + "\n", build: strings.Repeat("b", 80) + "…"},
		"cut off":               {in: greeting + "1.0", fails: true},
		"another version":       {in: "mvmctl-linux/2 1.0\n", fails: true},
		"never":                 {in: long, fails: true},
		"too late":              {in: long + "\n" + greeting + "1.0\n", fails: true},
		"nothing":               {fails: true},
	} {
		r := bufio.NewReaderSize(strings.NewReader(c.in), 32<<10)
		build, err := awaitGreeting(r)
		if build != c.build || (err != nil) != c.fails {
			t.Errorf("%s: %q, %v", what, build, err)
		}
		if rest, _ := io.ReadAll(r); err == nil && strings.HasSuffix(c.in, "rest") && string(rest) != "rest" {
			t.Errorf("%s: %q is left for the session", what, rest)
		}
	}
}

func TestEnded(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]struct {
		code     int
		told     bool
		notFound bool
		says     string
	}{
		`{"code":0}`:                          {told: true},
		`{"code":137}`:                        {code: 137, told: true},
		`{"not_found":true,"error":"x"}`:      {told: true, notFound: true, says: "prog"},
		`{"error":"no \u001b[31m"}`:           {told: true, says: "no ·[31m"},
		`{"code":256}`:                        {says: "256"},
		`{"code":-1}`:                         {says: "-1"},
		`{"code":99999999999999999999999999}`: {says: "cannot unmarshal"},
		`{"code":"0"}`:                        {says: "cannot unmarshal"},
		``:                                    {says: "unexpected end"},
		`[]`:                                  {says: "cannot unmarshal"},
	} {
		code, told, err := ended("prog", []byte(in))
		if code != want.code || told != want.told || errors.Is(err, exec.ErrNotFound) != want.notFound || (err == nil) != (want.says == "") {
			t.Errorf("%s: %d, %v, %v", in, code, told, err)
		}
		if err != nil && !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v", in, err)
		}
	}
}

func TestParseTemp(t *testing.T) {
	t.Parallel()
	for in, want := range map[string]string{
		`{"dir":"/var/lib/mvmctl/tmp/s-1/d-2"}`: "/var/lib/mvmctl/tmp/s-1/d-2",
		`{"dir":"/a/../etc"}`:                   "", `{"dir":"/"}`: "", `{"dir":""}`: "", `{"dir":"a"}`: "", `{"dir":"/a b"}`: "", `{"dir":"/a#b"}`: "",
		`{"dir":"/a\n"}`: "", `{"dir":"/a?dir=b"}`: "", `{"dir":"//a"}`: "", `{"dir":"/` + strings.Repeat("x", 300) + `"}`: "", `{`: "", `[]`: "",
	} {
		got, err := parseTemp([]byte(in))
		if got != want || (err == nil) != (want != "") {
			t.Errorf("%s: %q, %v", in, got, err)
		}
	}
}

// FuzzFrames: whatever comes as frames is bounded, and what was read is what was sent.
func FuzzFrames(f *testing.F) {
	f.Add([]byte("k\x00\x00\x00\x03abck\x00\x00\x00\x00"))
	f.Add([]byte("k\xff\xff\xff\xff"))
	f.Add([]byte("k\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		r := bytes.NewReader(data)
		var again bytes.Buffer
		for {
			kind, p, err := ReadFrame(r)
			if err != nil {
				break
			}
			if len(p) > MaxFrame {
				t.Fatalf("a frame of %d bytes", len(p))
			}
			if err := WriteFrame(&again, kind, p); err != nil {
				t.Fatal(err)
			}
		}
		if !bytes.HasPrefix(data, again.Bytes()) {
			t.Error("what was read is not what was sent")
		}
	})
}

// FuzzGreeting: a login shell may print anything before the greeting.
func FuzzGreeting(f *testing.F) {
	f.Add([]byte("Welcome\n" + greeting + "1.0\nrest"))
	f.Add([]byte(greeting))
	f.Add(bytes.Repeat([]byte("x"), 70<<10))
	f.Fuzz(func(t *testing.T, data []byte) {
		in := bytes.NewReader(data)
		r := bufio.NewReaderSize(in, 32<<10)
		build, err := awaitGreeting(r)
		read := len(data) - in.Len() - r.Buffered()
		if read > maxNoise+32<<10 {
			t.Errorf("%d bytes were read", read)
		}
		if err != nil {
			return
		}
		printable(t, "the build", build, 80+len("…"))
		if !bytes.Contains(data[:read], []byte(greeting)) || data[read-1] != '\n' {
			t.Errorf("greeted by %q", data[:read])
		}
	})
}

// FuzzList: limactl's list is bounded and safe to print; what is not plain is never taken for it.
func FuzzList(f *testing.F) {
	f.Add([]byte(listed))
	f.Add([]byte(strings.Replace(listed, `"plain":true`, `"plain":null`, 1) + "\n" + listed))
	f.Add([]byte(`{"name":"mvmctl"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := parseList(data, "mvmctl")
		if err != nil {
			return
		}
		printable(t, "the status", s.Status, 40+len("…"))
		if s.Status == StatusRunning && s.Unsafe == "" && !bytes.Contains(bytes.ToLower(data), []byte("plain")) {
			t.Error("taken for plain, of which nothing is said")
		}
	})
}

// FuzzAnswers: how a program ended, where a folder is, and which version limactl has.
func FuzzAnswers(f *testing.F) {
	f.Add([]byte(`{"code":7}`))
	f.Add([]byte(`{"error":"\u001b[31m"}`))
	f.Add([]byte(`{"dir":"/a/b"}`))
	f.Add([]byte("1.0.0"))
	f.Fuzz(func(t *testing.T, data []byte) {
		code, told, err := ended("prog", data)
		if code < 0 || code > 255 || code != 0 && (!told || err != nil) || !told && err == nil {
			t.Errorf("code %d, told %v, %v", code, told, err)
		}
		if told && err != nil {
			printable(t, "an error", err.Error(), 500)
		}
		if dir, err := parseTemp(data); err == nil && (len(dir) > 200 || strings.ContainsAny(dir, " \n#?*$'\"\\:=") || strings.Contains(dir, "/.") || dir[0] != '/') {
			t.Errorf("the folder %q", dir)
		}
		if major, minor, ok := parseVersion(string(data)); major < 0 || minor < 0 || major > 9999 || minor > 9999 || !ok && major+minor != 0 {
			t.Errorf("version %d.%d", major, minor)
		}
	})
}

// FuzzCommand: what a session is asked to run has the words that were sent.
func FuzzCommand(f *testing.F) {
	f.Add("printf", "\xff\x00", "X=1", "/")
	f.Fuzz(func(t *testing.T, program, arg, env, dir string) {
		data, err := json.Marshal(command{Args: toBytes([]string{program, arg}), Env: toBytes([]string{env}), Dir: []byte(dir)})
		if err != nil {
			t.Fatal(err)
		}
		var c command
		if err := json.Unmarshal(data, &c); err != nil {
			t.Fatal(err)
		}
		if args := toStrings(c.Args); args[0] != program || args[1] != arg || toStrings(c.Env)[0] != env || string(c.Dir) != dir {
			t.Errorf("%q %q %q became %q", program, arg, env, c)
		}
	})
}
