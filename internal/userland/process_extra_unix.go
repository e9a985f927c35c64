//go:build unix

package userland

import (
	"net"
	"os"
	"os/exec"
	"os/signal"
	"strings"
	"syscall"
)

// ignoreHangup lets the child inherit an ignored SIGHUP.
func ignoreHangup(*exec.Cmd) (restore func()) {
	if signal.Ignored(syscall.SIGHUP) {
		return func() {}
	}
	signal.Ignore(syscall.SIGHUP)
	return func() { signal.Reset(syscall.SIGHUP) }
}

// terminalName finds the path of a terminal.
func terminalName(f *os.File) string {
	if name, err := os.Readlink("/proc/self/fd/0"); err == nil && strings.HasPrefix(name, "/dev/") {
		return name
	}
	return f.Name()
}

// printAddresses is hostname -i: the machine's own addresses.
func (c *call) printAddresses() int {
	addrs, err := net.InterfaceAddrs()
	if err != nil {
		return c.errorf("%s", reason(err))
	}
	var list []string
	for _, a := range addrs {
		if ip, ok := a.(*net.IPNet); ok && !ip.IP.IsLoopback() && !ip.IP.IsLinkLocalUnicast() {
			list = append(list, ip.IP.String())
		}
	}
	c.printf("%s\n", strings.Join(list, " "))
	return exitOK
}
