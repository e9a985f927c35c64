package nix

import (
	"os"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
)

// A log of Nix 2.8 with two builds, the second failing.
func TestLog(t *testing.T) {
	f, err := os.Open("testdata/build.log")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	var events []Event
	l := newLog(func(e Event) { events = append(events, e) })
	l.read(f)
	var logs, texts []string
	for _, e := range events {
		if e.Log != "" {
			logs = append(logs, e.From+"> "+e.Log)
		}
		if len(texts) == 0 || texts[len(texts)-1] != e.Text {
			texts = append(texts, e.Text)
		}
	}
	if d := cmp.Diff([]string{"", "building bb", "building g"}, texts); d != "" {
		t.Error(d)
	}
	if d := cmp.Diff([]string{"> warning: Git tree '/src' is dirty", "bb> one", "g> two", "g> three"}, logs); d != "" {
		t.Error(d)
	}
	last := events[len(events)-1]
	if want := (Count{1, 2}); last.Builds != want {
		t.Errorf("builds %v, want %v", last.Builds, want)
	}
	if d := cmp.Diff([]string{"builder for '/nix/store/7q039xpmwx1lmm9nmxsfxn8biap132vm-g.drv' failed with exit code 3"}, l.causes); d != "" {
		t.Error(d)
	}
	if want := "error: builder for"; !strings.HasPrefix(l.tail[len(l.tail)-1], want) {
		t.Errorf("the tail ends with %q", l.tail[len(l.tail)-1])
	}
}

func TestLogDownloads(t *testing.T) {
	l := newLog(nil)
	for _, s := range []string{
		`{"action":"start","id":1,"level":0,"text":"","type":103}`,
		`{"action":"start","id":2,"level":3,"text":"copying path","type":100,"fields":["/nix/store/0123-hello-2.1","a","b"]}`,
		`{"action":"start","id":3,"level":4,"text":"downloading 'https://x/nar/1.nar.xz'","type":101,"fields":["https://x/nar/1.nar.xz"]}`,
		`{"action":"result","id":1,"type":105,"fields":[0,4,1,0]}`,
		`{"action":"result","id":1,"type":106,"fields":[101,1000]}`,
		`{"action":"result","id":3,"type":105,"fields":[300,800,0,0]}`,
	} {
		l.line([]byte("@nix " + s))
	}
	want := Event{Text: "downloading 'https://x/nar/1.nar.xz'", Downloads: Count{0, 4}, Bytes: Count{300, 1000}}
	if d := cmp.Diff(want, l.now); d != "" {
		t.Error(d)
	}
}

// Nothing of a build reaches a terminal as it is, and nothing grows without bound.
func TestHostileLog(t *testing.T) {
	var events []Event
	l := newLog(func(e Event) { events = append(events, e) })
	l.read(strings.NewReader(strings.Repeat("x", 3*maxLine) + "\n" + "\x1b]0;title\x07plain\x1b[2J\x00\u202e\n" +
		`@nix {"action":"result","id":9,"type":101,"fields":["a\u001b[31mb\rc"]}` + "\n" + "@nix {broken\n@nix\n" + strings.Repeat("error: no\n", 1000) + "end without a line end"))
	for _, e := range events {
		if strings.ContainsFunc(e.Log, func(r rune) bool { return unicode.IsControl(r) }) {
			t.Errorf("%q", e.Log)
		}
	}
	if events[0].Log != "plain" || events[1].Log != "abc" {
		t.Errorf("%q, %q", events[0].Log, events[1].Log)
	}
	if events[len(events)-1].Log != "end without a line end" {
		t.Errorf("last: %q", events[len(events)-1].Log)
	}
	if len(l.causes) > maxCauses || len(l.tail) > maxTail {
		t.Errorf("%d causes, %d lines", len(l.causes), len(l.tail))
	}
}

func FuzzLog(f *testing.F) {
	data, err := os.ReadFile("testdata/build.log")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(data))
	f.Add("@nix {\"action\":\"result\",\"id\":1,\"type\":105,\"fields\":[18446744073709551615,\"x\",null,{}]}\nerror: \x1b[31mx\n")
	f.Add("@nix {\"action\":\"start\",\"id\":1,\"type\":105,\"fields\":[\"-\"]}\n@nix {\"action\":\"result\",\"id\":1,\"type\":101,\"fields\":[\"\xff\x1b\"]}")
	f.Fuzz(func(t *testing.T, s string) {
		l := newLog(func(e Event) {
			for _, text := range []string{e.Log, e.Text, e.From} {
				if len(text) > maxText+4 || !utf8.ValidString(text) || strings.ContainsFunc(text, func(r rune) bool { return unicode.IsControl(r) && r != '\n' && r != '\t' }) {
					t.Fatalf("%q", text)
				}
			}
			if e.Builds.Done > e.Builds.Expected || e.Downloads.Done > e.Downloads.Expected || e.Bytes.Done > e.Bytes.Expected {
				t.Fatalf("more done than expected: %+v", e)
			}
		})
		l.read(strings.NewReader(s))
		if len(l.acts) > maxActivities || len(l.causes) > maxCauses || len(l.tail) > maxTail {
			t.Fatal("it grew")
		}
		for _, c := range l.causes {
			e := target{ref: "/f", shown: ".", local: "/f"}.classify(&failure{causes: []string{c}})
			if e.Code == "" || e.Message == "" || e.Remedy == "" {
				t.Fatalf("%q: %+v", c, e)
			}
		}
	})
}
