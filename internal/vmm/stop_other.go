//go:build !linux

package vmm

import "errors"

var errNoStop = errors.New("a VMM is paused by its own means here")

// Stop is for Linux.
func (c *Child) Stop() error { return errNoStop }

// Continue is for Linux.
func (c *Child) Continue() error { return errNoStop }

// Stopped is for Linux.
func (c *Child) Stopped() bool { return false }
