package drivertest

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// stock is what a machine might leave behind.
type stock struct {
	fds       []string // what this process's descriptors are
	children  []string // processes below this one
	files     []string // below the machine's folders
	goroutine int
}

func takeStock(g *guest) stock {
	g.t.Helper()
	return stock{fds: descriptors("self"), children: children(), files: filesBelow(g.boot.Dir, g.boot.RuntimeDir), goroutine: runtime.NumGoroutine()}
}

// compare fails the test if there is more than before. Goroutines end a moment after what
// they served, so they are given one.
func (before stock) compare(g *guest) {
	g.t.Helper()
	after := takeStock(g)
	for deadline := time.Now().Add(5 * time.Second); after.goroutine > before.goroutine && time.Now().Before(deadline); after = takeStock(g) {
		<-time.After(time.Millisecond)
	}
	if diff := cmp.Diff(before.fds, after.fds); diff != "" {
		g.t.Errorf("descriptors (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before.children, after.children); diff != "" {
		g.t.Errorf("processes (-before +after):\n%s", diff)
	}
	if diff := cmp.Diff(before.files, after.files); diff != "" {
		g.t.Errorf("files (-before +after):\n%s", diff)
	}
	if after.goroutine > before.goroutine {
		buf := make([]byte, 1<<20)
		g.t.Errorf("%d goroutines, %d before:\n%s", after.goroutine, before.goroutine, buf[:runtime.Stack(buf, true)])
	}
}

// descriptors lists what a process has open, by kind: sockets and pipes have numbers that
// tell nothing. It is empty where there is no /proc.
func descriptors(pid string) []string {
	links, err := filepath.Glob("/proc/" + pid + "/fd/*")
	if err != nil {
		return nil
	}
	var out []string
	for _, l := range links {
		if to, err := os.Readlink(l); err == nil {
			kind, _, _ := strings.Cut(to, ":[")
			out = append(out, kind)
		}
	}
	slices.Sort(out)
	return out
}

// children lists the processes whose parent this process is.
func children() []string {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil
	}
	var out []string
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue // it has ended
		}
		name, rest, _ := strings.Cut(string(data), ") ")
		if f := strings.Fields(rest); len(f) > 1 && f[1] == fmt.Sprint(os.Getpid()) {
			state := "alive" // running or sleeping: an engine that the test runs is now this and now that
			if f[0] == "Z" {
				state = "zombie"
			}
			out = append(out, name+") "+state)
		}
	}
	slices.Sort(out)
	return out
}

func filesBelow(dirs ...string) []string {
	var out []string
	for _, dir := range dirs {
		_ = filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err == nil {
				out = append(out, path)
			}
			return nil
		})
	}
	return out
}

// testCycles starts and ends machines in every way and counts.
func testCycles(s *suite, t *testing.T) {
	g := s.newGuest(t, "")
	warmUp(g)
	c := func() { // a whole life once, for the same reason
		g.start()
		g.shutdown(g.connect())
	}
	c()
	before := takeStock(g)
	for i := range s.Cycles {
		g.vm = nil
		g.start()
		if i%2 == 1 {
			_ = g.vm.Kill()
			_ = g.wait()
			continue
		}
		client := g.connect()
		g.shutdown(client)
		_ = client.Close()
	}
	before.compare(g)
}
