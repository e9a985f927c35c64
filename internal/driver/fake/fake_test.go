package fake_test

import (
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
	"github.com/mvmctl/mvmctl/internal/driver/fake"
)

func TestConformance(t *testing.T) {
	drivertest.Run(t, drivertest.Harness{
		New:     func(testing.TB, drivertest.Assets) driver.Driver { return fake.New(fake.Options{}) },
		Cycles:  20,
		OneDial: true,
	})
}
