package guestproc

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"strconv"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// killRounds bounds how often a session is searched for processes that were forked while it
// was being killed.
const killRounds = 64

// killWait is how long a killed process may take. SIGKILL acts at once unless a disk hangs.
const killWait = 200 * time.Millisecond

// member is a live process of a session, held by a pidfd so that its number cannot mislead.
type member struct{ pid, fd int }

type group []member

// findSession returns the live processes of a session. The caller makes sure that the
// session's number cannot be reused meanwhile: its leader is an unreaped zombie, or a member
// is known to be alive afterwards.
func findSession(sid int) group {
	proc, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer proc.Close()
	names, err := proc.Readdirnames(-1)
	if err != nil {
		return nil
	}
	var g group
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil || !inSession(pid, sid) {
			continue
		}
		fd, err := unix.PidfdOpen(pid, 0)
		if err != nil {
			continue
		}
		if !inSession(pid, sid) { // it was another process by then
			_ = unix.Close(fd)
			continue
		}
		g = append(g, member{pid, fd})
	}
	return g
}

// inSession reports whether pid lives (is no zombie) in session sid: fields 3 and 6 of
// proc_pid_stat(5).
func inSession(pid, sid int) bool {
	data, err := os.ReadFile("/proc/" + strconv.Itoa(pid) + "/stat")
	if err != nil {
		return false
	}
	end := bytes.LastIndexByte(data, ')') // the name before it may hold anything
	if end < 0 {
		return false
	}
	f := bytes.Fields(data[end+1:])
	if len(f) < 4 || f[0][0] == 'Z' || f[0][0] == 'X' {
		return false
	}
	got, err := strconv.Atoi(string(f[3]))
	return err == nil && got == sid
}

// killSession kills all of a session while its zombie leader keeps the number ours.
func killSession(sid int) {
	_ = syscall.Kill(-sid, syscall.SIGKILL)
	for range killRounds {
		g := findSession(sid)
		if len(g) == 0 {
			return
		}
		g.signal(unix.SIGKILL)
		gone := g.wait(killWait)
		g.close()
		if !gone {
			return // all are signalled; a hung one cannot fork and ends when its wait does
		}
	}
}

// waitOrKill waits up to grace for the group to end, then kills it with all that it forked.
// The leader is gone by now, so the session's number is only known to be ours while a member
// that we hold lives. Members are therefore stopped one after the other until a search finds
// nobody new (a process with a pending signal cannot fork), and only then killed.
func (g group) waitOrKill(sid int, grace time.Duration) {
	defer func() { g.close() }()
	if g.wait(grace) {
		return
	}
	fresh := g
	for range killRounds {
		fresh.signal(unix.SIGSTOP)
		more := findSession(sid)
		if !g.anyAlive() {
			more.close()
			return
		}
		fresh = g.newIn(more)
		if len(fresh) == 0 {
			break
		}
		g = append(g, fresh...)
	}
	g.signal(unix.SIGKILL)
	g.wait(killWait)
}

// newIn returns those of more that are not in g, and lets go of the others.
func (g group) newIn(more group) group {
	var fresh group
	for _, m := range more {
		if slices.ContainsFunc(g, func(have member) bool { return have.pid == m.pid && have.alive() }) {
			_ = unix.Close(m.fd)
			continue
		}
		fresh = append(fresh, m)
	}
	return fresh
}

func (m member) alive() bool { return !group{m}.wait(0) }

func (g group) anyAlive() bool { return slices.ContainsFunc(g, member.alive) }

func (g group) signal(sig syscall.Signal) {
	for _, m := range g {
		_ = unix.PidfdSendSignal(m.fd, sig, nil, 0) // ESRCH: it has ended
	}
}

// wait reports whether all members ended within d.
func (g group) wait(d time.Duration) bool {
	deadline := time.Now().Add(d)
	for _, m := range g {
		for {
			left := max(time.Until(deadline), 0)
			fds := []unix.PollFd{{Fd: int32(m.fd), Events: unix.POLLIN}}
			// Rounded up, so that the last wait is not a spin.
			n, err := unix.Poll(fds, int((left+time.Millisecond-1)/time.Millisecond))
			if errors.Is(err, unix.EINTR) {
				continue
			}
			if err != nil || n == 0 {
				return false
			}
			break
		}
	}
	return true
}

func (g group) close() {
	for _, m := range g {
		_ = unix.Close(m.fd)
	}
}
