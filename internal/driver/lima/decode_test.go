package lima

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/linuxenv"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// printable fails the test when a text that people will see is not safe to print. lines may have
// several.
func printable(t *testing.T, what, s string, limit int, lines bool) {
	t.Helper()
	plain := s
	if lines {
		plain = strings.ReplaceAll(s, "\n", " ")
	}
	if plain != machine.Printable(plain) {
		t.Errorf("%s has what a terminal obeys: %q", what, s)
	}
	if len(s) > limit {
		t.Errorf("%s has %d bytes, more than %d", what, len(s), limit)
	}
}

// safe checks an error of the virtual machine's.
func safe(t *testing.T, err error) {
	t.Helper()
	e, ok := errors.AsType[*machine.Error](err)
	if !ok {
		return
	}
	if e.Code == "" || e.Code == "internal" || len(e.Code) > 64 || strings.Trim(e.Code, "abcdefghijklmnopqrstuvwxyz_.") != "" {
		t.Errorf("the code %q", e.Code)
	}
	printable(t, "the message", e.Message, 1100, false)
	printable(t, "the remedy", e.Remedy, 1100, false)
	printable(t, "the detail", e.Detail, 4*8<<10, true)
	if e.Log != "" || e.Exit < 0 || e.Exit > 255 {
		t.Errorf("log %q, exit %d", e.Log, e.Exit)
	}
}

func TestFailures(t *testing.T) {
	t.Parallel()
	for _, err := range []error{driver.ErrNoSuchPort, errEnded} {
		if got := failedOf(err).err(); !errors.Is(got, err) {
			t.Errorf("%v became %v", err, got)
		}
	}
	for what, c := range map[string]struct {
		in   machine.Failure
		code string
	}{
		"one of ours":    {machine.Failure{Code: "backend.kvm", Message: "no KVM", Remedy: "chmod", Exit: 125}, "backend.kvm"},
		"of nothing":     {machine.Failure{}, "lima.host"},
		"without a code": {machine.Failure{Code: "internal", Message: "x"}, "lima.host"},
		"half a letter":  {machine.Failure{Code: "vmm.exited", Message: "x" + strings.Repeat("é", 2000)}, "vmm.exited"},
		"a strange code": {machine.Failure{Code: "a\x1b[31m", Message: "x"}, "lima.host"},
		"a long code":    {machine.Failure{Code: strings.Repeat("x", 65), Message: "x"}, "lima.host"},
		"a file of ours": {machine.Failure{Code: "vmm.exited", Message: "x\x1b\n", Remedy: strings.Repeat("r", 5000), Log: "/etc/shadow", Exit: 4711, Detail: "a\nb\x1b[2J" + strings.Repeat("d", 20<<10)}, "vmm.exited"},
	} {
		err := failed{Failure: c.in}.err()
		if machine.CodeOf(err) != c.code {
			t.Errorf("%s: %v (%s), want %s", what, err, machine.CodeOf(err), c.code)
		}
		safe(t, err)
	}
}

func TestCapabilitiesOfTheVirtualMachine(t *testing.T) {
	t.Parallel()
	vm := func(isolation driver.Isolation, slow bool) driver.Isolation {
		return probed{Driver: "qemu", Slow: slow, Caps: driver.Capabilities{Isolation: isolation}}.capabilities(linuxenv.Tool{Version: "1.0.0"}, "mvmctl").Isolation
	}
	for _, c := range []struct {
		in   driver.Isolation
		slow bool
		want driver.Isolation
	}{
		{driver.IsolationVMJail, false, driver.IsolationVMJail},
		{driver.IsolationVM, false, driver.IsolationVM},
		{driver.IsolationVM, true, driver.IsolationEmulated}, // a virtual machine that is emulated itself
		{driver.IsolationVMJail, true, driver.IsolationEmulated},
		{driver.IsolationEmulated, false, driver.IsolationEmulated},
		{driver.IsolationContainer, false, driver.IsolationNone},
		{"vm+vault", false, driver.IsolationNone},
		{"", false, driver.IsolationNone},
	} {
		if got := vm(c.in, c.slow); got != c.want {
			t.Errorf("%q, emulated %v: %q, want %q", c.in, c.slow, got, c.want)
		}
	}
}

func TestNotes(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]note{
		"kept":          {kept: true}, // of an earlier release
		"kept mvmctl\n": {kept: true, instance: "mvmctl"}, "making other\n": {instance: "other"},
	} {
		if got, err := parseNote(text); got != want || err != nil {
			t.Errorf("%q: %+v, %v, want %+v", text, got, err, want)
		}
	}
	for _, text := range []string{"", "\n", "kep", "kept a b\n", "kept -x\n", "kept ../x", "Kept x"} { // cut, or somebody else's
		if got, err := parseNote(text); err == nil {
			t.Errorf("%q: %+v, want an error", text, got)
		}
	}
	for _, n := range []note{{}, {kept: true}, {true, "a"}, {false, "b"}} {
		if got, err := parseNote(n.String()); got != n || err != nil {
			t.Errorf("%+v became %+v, %v", n, got, err)
		}
	}
}

// frames makes bytes of pairs of a kind and a text.
func frames(t testing.TB, pairs ...string) []byte {
	t.Helper()
	var b bytes.Buffer
	for i := 0; i < len(pairs); i += 2 {
		if err := linuxenv.WriteFrame(&b, pairs[i][0], []byte(pairs[i+1])); err != nil {
			t.Fatal(err)
		}
	}
	return b.Bytes()
}

func TestAwaitStart(t *testing.T) {
	t.Parallel()
	for what, c := range map[string]struct {
		in    []byte
		ok    bool
		code  string
		heard string
	}{
		"it runs":                {in: frames(t, "v", "qemu", "s", "", "c", "later"), ok: true, heard: "qemu"},
		"it cannot":              {in: frames(t, "v", "no", "x", `{"failure":{"code":"backend.kvm","message":"m"}}`), code: "backend.kvm", heard: "no"},
		"it ended":               {in: frames(t, "x", "")},
		"an end that is no JSON": {in: frames(t, "x", "{")},
		"cut off":                {in: frames(t, "v", "qemu", "s", "")[:11], heard: "qemu"},
		"nothing":                {},
		"an unknown kind":        {in: frames(t, "q", "?", "s", ""), ok: true},
	} {
		var heard bytes.Buffer
		v := newVM(driver.Output{VMM: &heard})
		err := v.awaitStart(bytes.NewReader(c.in))
		if (err == nil) != c.ok || machine.CodeOf(err) != c.code || heard.String() != c.heard {
			t.Errorf("%s: %v, heard %q", what, err, heard.String())
		}
	}
}

// FuzzFailed: an error of the virtual machine's is safe to print, and of a kind that we know.
func FuzzFailed(f *testing.F) {
	f.Add([]byte(`{"kind":"ended"}`))
	f.Add([]byte(`{"failure":{"code":"backend.kvm","message":"\u001b[31m","exit":-1,"log":"/etc/passwd"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		err := endOf(data)
		if err == nil && len(data) > 0 {
			t.Error("an end with words that is no error")
		}
		safe(t, err)
	})
}

// FuzzCapabilities: what the virtual machine says that it can do is safe to print, and no more than it
// can be.
func FuzzCapabilities(f *testing.F) {
	f.Add([]byte(`{"driver":"qemu","caps":{"version":"7.2","isolation":"vm","notes":["a\u001b"]},"slow":true}`))
	f.Add([]byte(`{"caps":{"isolation":"container"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		var p probed
		if json.Unmarshal(data, &p) != nil {
			return
		}
		c := p.capabilities(linuxenv.Tool{Path: "/bin/limactl", Version: "1.0.0"}, "mvmctl")
		for _, s := range append([]string{c.Version, c.Transport, c.Accelerator, c.MachineFlavor, c.BinaryPath, string(c.Isolation)}, c.Notes...) {
			printable(t, "a word", s, 600, false)
		}
		if len(c.Notes) > 17 || c.BinaryPath != "/bin/limactl" || !slices.Contains(c.Lacks, driver.FeatureImages) || p.Slow && c.Isolation != driver.IsolationEmulated && c.Isolation != driver.IsolationNone {
			t.Errorf("%+v", c)
		}
	})
}

// FuzzEvents: whatever comes as a machine's events ends, and only an end that was told is one.
func FuzzEvents(f *testing.F) {
	f.Add(frames(f, "s", "", "c", "console", "v", "vmm", "t", "trouble\x1b", "x", ""))
	f.Add(frames(f, "c", "console", "x", `{"kind":"ended"}`))
	f.Add(frames(f, "c", "console"))
	f.Fuzz(func(t *testing.T, data []byte) {
		var console, words bytes.Buffer
		v := newVM(driver.Output{Console: &console, VMM: &words, Trouble: func(text string) { printable(t, "trouble", text, 410, false) }})
		ended, known := v.read(bytes.NewReader(data))
		if ended != nil && !known {
			t.Errorf("an end that was not told: %v", ended)
		}
		if console.Len()+words.Len() > len(data) {
			t.Error("more was passed on than came")
		}
		safe(t, ended)
		safe(t, newVM(driver.Output{}).awaitStart(bytes.NewReader(data)))
		e := &export{body: io.NopCloser(bytes.NewReader(data))}
		n, err := io.Copy(io.Discard, e)
		if n > int64(len(data)) || err == nil && !known {
			t.Errorf("%d bytes exported, %v", n, err)
		}
		safe(t, err)
	})
}

// FuzzNote: a marker that somebody changed names a virtual machine or none.
func FuzzNote(f *testing.F) {
	f.Add("kept mvmctl\n")
	f.Add("making -x y")
	f.Fuzz(func(t *testing.T, text string) {
		n, err := parseNote(text)
		if err != nil {
			return
		}
		if n.instance != "" && !linuxenv.PlainName(n.instance) {
			t.Errorf("the instance %q", n.instance)
		}
		if again, err := parseNote(n.String()); again != n || err != nil {
			t.Errorf("%+v is not what it says", n)
		}
	})
}

// TestExplain: a machine that ends because its virtual machine is shut down did not end by itself.
func TestExplain(t *testing.T) {
	t.Parallel()
	own := errors.New("the VMM's own")
	for what, c := range map[string]struct {
		stopping, asked bool
		in              error
		code            string
		out             error
	}{
		"a power-off":                    {},
		"a crash":                        {in: own, out: own},
		"a shutdown":                     {stopping: true, code: "lima.lost"},
		"a shutdown that a VMM dies by":  {stopping: true, in: own, code: "lima.lost"},
		"asked for before it":            {stopping: true, asked: true},
		"asked for before it, but crash": {stopping: true, asked: true, in: own, out: own},
	} {
		h := &Host{Stopping: func(context.Context) bool { return c.stopping }}
		if c.asked {
			h.ask()
		}
		err := h.explain(t.Context(), c.in)
		if machine.CodeOf(err) != c.code || c.code == "" && !errors.Is(err, c.out) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if err := (&Host{}).explain(t.Context(), own); !errors.Is(err, own) {
		t.Errorf("where nothing is known of a shutdown: %v", err)
	}
}
