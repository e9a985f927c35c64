package fake_test

import (
	"context"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/agentproto"
	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/fake"
	"github.com/mvmctl/mvmctl/internal/machine"
)

func TestFaults(t *testing.T) {
	isAuth := func(err error) bool {
		var known *agentproto.Error
		return errors.As(err, &known) && known.Code == agentproto.CodeAuth
	}
	none := func(err error) bool { return err == nil }
	some := func(err error) bool { return err != nil }
	tests := map[fake.Fault]struct {
		limit            time.Duration
		connected, ended func(error) bool
	}{
		fake.FaultNeverAnswer: {200 * time.Millisecond, func(err error) bool { return errors.Is(err, context.DeadlineExceeded) }, none},
		fake.FaultWrongKey:    {time.Second, isAuth, none},
		fake.FaultDieEarly:    {20 * time.Second, some, func(err error) bool { return machine.CodeOf(err) == "boot.vmm_died" }},
		fake.FaultFlood:       {20 * time.Second, none, none},
		fake.FaultBusyDisk:    {time.Second, func(err error) bool { return errors.Is(err, syscall.ENOSPC) }, some},
	}
	for _, fault := range fake.Faults() {
		t.Run(string(fault), func(t *testing.T) {
			want, ok := tests[fault]
			if !ok {
				t.Fatal("no test for this fault")
			}
			connected, ended := drivertest.Misbehaves(t, drivertest.Harness{
				New: func(testing.TB, drivertest.Assets) driver.Driver { return fake.New(fake.Options{Fault: fault}) },
			}, want.limit)
			if !want.connected(connected) || !want.ended(ended) {
				t.Errorf("connected: %v; ended: %v", connected, ended)
			}
		})
	}
}
