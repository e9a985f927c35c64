package guestinit

import (
	"context"
	"fmt"
	"os"
)

// Channel is where the agent listens.
type Channel struct {
	Vsock bool   // an AF_VSOCK port
	Port  string // otherwise the path of a virtio-serial port device
}

// Channel waits until the device of the channel is there: a virtio vsock device if the
// machine has one, else the serial port that is called PortName.
func (s *System) Channel(ctx context.Context) (Channel, error) {
	defer s.uevents.close()
	sys := os.DirFS("/sys")
	var c Channel
	ok, err := s.uevents.wait(ctx, driveTimeout, func() bool {
		if len(virtioDevices(sys, virtioVsock)) > 0 {
			if _, err := os.Stat("/dev/vsock"); err == nil {
				c.Vsock = true
				return true
			}
		}
		if port := findPort(sys, PortName); port != "" {
			c.Port = "/dev/" + port
			return true
		}
		return false
	}, func() bool { return false })
	if err != nil {
		return Channel{}, err
	}
	if !ok {
		return Channel{}, fmt.Errorf("no channel: the machine has neither a vsock device nor a serial port %s", PortName)
	}
	s.mark("channel")
	return c, nil
}
