package e2e

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// atOnce runs commands that all begin at the same moment and returns their results.
func (l *lab) atOnce(n int, args func(i int) []string) []result {
	l.t.Helper()
	results := make([]result, n)
	begin := make(chan struct{})
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			<-begin
			results[i] = l.run(args(i)...)
		})
	}
	close(begin)
	wg.Wait()
	return results
}

// allWork fails the test unless all of the commands have succeeded.
func (l *lab) allWork(n int, args func(i int) []string) []result {
	l.t.Helper()
	results := l.atOnce(n, args)
	for i, r := range results {
		if r.code != 0 {
			l.t.Errorf("mvmctl %s: %v", strings.Join(args(i), " "), r)
		}
	}
	if l.t.Failed() {
		l.t.FailNow()
	}
	return results
}

// Many machines start at the same moment, each is itself and none is in another's way, one's
// death is nobody else's, and all end at the same moment.
func TestManyMachinesAtOnce(t *testing.T) {
	for driver, counts := range map[string][]int{"fake": {2, 20}, "qemu": {2, 6}} {
		for _, n := range counts {
			t.Run(fmt.Sprintf("%s/%d", driver, n), func(t *testing.T) { manyAtOnce(t, newLab(t, driver, false), n) })
		}
	}
}

func manyAtOnce(t *testing.T, l *lab, n int) {
	name := func(i int) string { return fmt.Sprintf("m%d", i) }
	begin := time.Now()
	l.allWork(n, func(i int) []string {
		return []string{"up", "-d", "--name", name(i), "-m", "96M", "-e", "WHO=" + name(i), "-p", "0:8080", "minimal"}
	})
	t.Logf("%d machines were up after %s", n, time.Since(begin).Round(time.Millisecond))
	for i, r := range l.allWork(n, func(i int) []string {
		script := "echo $WHO"
		if l.driver != "fake" { // whose machines are processes of the host, with its name and its files
			script += "; hostname; echo > /tmp/$WHO; ls /tmp"
		}
		return []string{"exec", name(i), "--", "sh", "-c", script}
	}) {
		want := name(i) + "\n"
		if l.driver != "fake" {
			want = strings.Repeat(want, 3)
		}
		if r.stdout != want {
			t.Errorf("%s says %q, want %q", name(i), r.stdout, want)
		}
	}
	pids, hostPorts := map[int]string{}, map[int]string{}
	for _, v := range l.list() {
		if v.State != string(machine.StateRunning) || len(v.Ports) != 1 {
			t.Fatalf("ls says %+v", v)
		}
		st := l.status(v.Name)
		for what, seen := range map[string]bool{
			"a VMM":        pids[st.VMM.Pid] != "" && st.VMM.Pid != 0,
			"a supervisor": pids[st.Supervisor.Pid] != "",
			"a port":       hostPorts[v.Ports[0].HostPort] != "",
		} {
			if seen {
				t.Errorf("%s shares %s with another machine", v.Name, what)
			}
		}
		pids[st.VMM.Pid], pids[st.Supervisor.Pid], hostPorts[v.Ports[0].HostPort] = v.Name, v.Name, v.Name
	}
	if len(hostPorts) != n {
		t.Errorf("%d of %d machines run", len(hostPorts), n)
	}
	if err := syscall.Kill(l.status(name(0)).VMM.Pid, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	l.run("wait", name(0))
	if v := l.machine(name(0)); v.State == string(machine.StateRunning) {
		t.Errorf("its VMM is dead, and ls says %+v", v)
	}
	l.allWork(n-1, func(i int) []string { return []string{"exec", name(i + 1), "--", "true"} })
	begin = time.Now()
	l.allWork(n, func(i int) []string { return []string{"rm", "--force", name(i)} })
	t.Logf("and gone after %s", time.Since(begin).Round(time.Millisecond))
	l.nothingLeft()
}

// Twenty equal commands at the same moment: one does the work, the others say that it is done or
// being done, and all end soon.
func TestTwentyEqualCommands(t *testing.T) {
	l := newLab(t, "fake", false)
	for _, tt := range []struct {
		args []string
		says []string // what those may say that did not do it
	}{
		{[]string{"up", "-d", "--name", "m", "minimal"}, []string{"running already", "in use by"}},
		{[]string{"down", "m"}, []string{"in use by"}},
		{[]string{"up", "-d", "--name", "m"}, []string{"running already", "in use by"}},
		{[]string{"rm", "--force", "m"}, []string{"no machine", "in use by"}},
	} {
		begin := time.Now()
		succeeded := 0
		for _, r := range l.atOnce(20, func(int) []string { return tt.args }) {
			if r.code == 0 {
				succeeded++
				continue
			}
			if r.code != 125 || !slices.ContainsFunc(tt.says, func(s string) bool { return strings.Contains(r.stderr, s) }) {
				t.Errorf("%q: %v", tt.args, r)
			}
		}
		if took := time.Since(begin); succeeded == 0 || took > time.Minute {
			t.Errorf("%q: %d succeeded, after %s", tt.args, succeeded, took)
		}
		if tt.args[0] == "up" {
			if list := l.list(); len(list) != 1 || list[0].State != string(machine.StateRunning) {
				t.Fatalf("ls says %+v", list)
			}
			l.must("exec", "m", "--", "true")
		}
	}
	l.nothingLeft()
}
