package docker_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/mvmctl/mvmctl/internal/driver"
	"github.com/mvmctl/mvmctl/internal/driver/drivertest"
)

func TestConformance(t *testing.T) {
	if testing.Short() {
		t.Skip("-short: it runs some thirty containers")
	}
	drivertest.Run(t, drivertest.Harness{New: func(t testing.TB, a drivertest.Assets) driver.Driver {
		note := filepath.Join(a.Cache, "engine") // for the test's children
		if socket, err := os.ReadFile(note); err == nil {
			return driverFor(string(socket))
		}
		e := startEngine(t)
		if err := os.WriteFile(note, []byte(e.socket), 0o644); err != nil { //nolint:gosec // other users are let in on purpose
			t.Fatal(err)
		}
		return e.driver()
	}})
}
