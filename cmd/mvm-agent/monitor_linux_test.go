package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

// One thread gets the slack, not the one that programs are started from: they would inherit it.
func TestCalmMonitorLeavesProgramsAlone(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root: only it may change another thread's timer slack")
	}
	if _, err := os.Stat("/proc/self/timerslack_ns"); err != nil {
		t.Skipf("needs a kernel with timerslack_ns: %v", err)
	}
	before := slackOf(t, strconv.Itoa(os.Getpid()))
	calmMonitor()
	threads, err := filepath.Glob("/proc/self/task/*")
	if err != nil {
		t.Fatal(err)
	}
	var calmed []string
	for _, dir := range threads {
		if tid := filepath.Base(dir); slackOf(t, tid) == strconv.Itoa(monitorSlack) {
			calmed = append(calmed, tid)
		}
	}
	if len(calmed) != 1 || calmed[0] == strconv.Itoa(os.Getpid()) {
		t.Errorf("threads with the slack: %v, want one beside the main thread", calmed)
	}
	out, err := exec.CommandContext(t.Context(), "cat", "/proc/self/timerslack_ns").Output()
	if err != nil {
		t.Fatal(err)
	}
	if got := strings.TrimSpace(string(out)); got != before {
		t.Errorf("a program has a slack of %s, want %s", got, before)
	}
}

func slackOf(t *testing.T, tid string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + tid + "/timerslack_ns")
	if err != nil {
		return "" // the thread has ended
	}
	return strings.TrimSpace(string(data))
}
