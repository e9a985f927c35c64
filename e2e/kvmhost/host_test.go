package kvmhost

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/mvmctl/mvmctl/internal/paths"
)

func TestTry(t *testing.T) {
	p, err := paths.Find(os.Getenv, os.Geteuid())
	if err != nil {
		t.Skipf("missing: a cache folder: %v", err)
	}
	begin := time.Now()
	h, err := Start(t.Context(), Options{CacheDir: p.Cache + "/test"})
	var missing MissingError
	if errors.As(err, &missing) {
		t.Skip(missing)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Logf("booted after %v", time.Since(begin))
	defer h.Close()
	var out, errOut bytes.Buffer
	code, err := h.Run(t.Context(), Command{Args: []string{"/bin/sh", "-c", os.Getenv("TRY")}, Env: []string{"PATH=/usr/local/bin:/usr/bin:/bin"}}, &out, &errOut)
	t.Logf("%d %v\n%s\n%s", code, err, out.String(), errOut.String())
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
	defer cancel()
	code, err = h.Run(ctx, Command{Args: []string{"/bin/sleep", "100"}}, &out, &errOut)
	t.Logf("%d %v", code, err)
	t.Log(strings.TrimSpace(h.Console()))
}
