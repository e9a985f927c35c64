package docker

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"strings"

	"github.com/mvmctl/mvmctl/internal/disk"
	"github.com/mvmctl/mvmctl/internal/layer"
	"github.com/mvmctl/mvmctl/internal/machine"
)

// Labels of what is ours in the engine.
const (
	labelImage   = "io.mvmctl.image"   // on images and containers: what names the root file system
	labelMachine = "io.mvmctl.machine" // on containers: the machine's ID
	labelName    = "io.mvmctl.name"    // on containers: the machine's name, for people
)

// repository is where our images are listed in `docker images`.
const repository = "mvmctl"

// imageSummary is an image in the engine's list.
type imageSummary struct {
	ID string `json:"Id"`
}

// rootOf returns what names the content of a root disk. The caller may know; otherwise it is the
// digest of the file.
func rootOf(ctx context.Context, f *os.File, d machine.Disk) (string, error) {
	if d.ID != "" {
		return d.ID, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, io.MultiReader(ctxReader{ctx, f})); err != nil {
		return "", fmt.Errorf("reading the root file system: %w", err)
	}
	return hex.EncodeToString(h.Sum(nil)), nil
}

// ctxReader ends with its context.
type ctxReader struct {
	ctx context.Context
	r   io.Reader
}

func (r ctxReader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// findImage returns the engine's image of a root file system, "" when it has none.
func (c *client) findImage(ctx context.Context, root string) (string, error) {
	var list []imageSummary
	if err := c.get(ctx, "/images/json", filter("label", labelImage+"="+root), &list); err != nil {
		return "", engineError(ctx, "looking for the image", err)
	}
	if len(list) == 0 {
		return "", nil
	}
	return list[0].ID, nil
}

// filter is the query that lists only what has a property.
func filter(key, value string) url.Values {
	data, _ := json.Marshal(map[string][]string{key: {value}}) // strings cannot fail
	return url.Values{"filters": {string(data)}}
}

// ensureImage returns the engine's image of the root file system in f, which is made if need be.
// Two that make it at the same time make the same layer, which the engine keeps once.
func (c *client) ensureImage(ctx context.Context, f *os.File, root string, say io.Writer) (string, error) {
	id, err := c.findImage(ctx, root)
	if err != nil || id != "" {
		return id, err
	}
	_, _ = fmt.Fprintf(say, "docker: making an image of %.16s (once)\n", root)
	if err := c.importImage(ctx, f, root); err != nil {
		return "", err
	}
	id, err = c.findImage(ctx, root)
	if err == nil && id == "" {
		err = machine.Errorf("backend.engine", "try again; see `docker images "+repository+"`", "the image that was just made is not there: somebody has removed it")
	}
	return id, err
}

// importImage streams the tree of an ext4 file system to the engine.
func (c *client) importImage(ctx context.Context, f *os.File, root string) error {
	info, err := f.Stat()
	if err != nil {
		return fmt.Errorf("reading the root file system: %w", err)
	}
	tree, err := disk.Open(f, info.Size())
	if err != nil {
		return fmt.Errorf("reading the root file system: %w", err)
	}
	out, in := io.Pipe()
	packed := make(chan error, 1)
	go func() {
		_, err := layer.ToTar(ctx, tree, in)
		_ = in.CloseWithError(err)
		packed <- err
	}()
	tag := root
	if len(tag) > 16 {
		tag = tag[:16]
	}
	resp, err := c.do(ctx, http.MethodPost, "/images/create", url.Values{
		"fromSrc": {"-"}, "repo": {repository}, "tag": {tag}, "message": {"root file system of a machine"},
		"changes": {"LABEL " + labelImage + "=" + root},
	}, out, "application/x-tar")
	if err == nil {
		err = importResult(resp.Body)
		_ = resp.Body.Close()
	}
	_ = out.Close()
	// What went wrong with packing is the cause of what the engine then says.
	if perr := <-packed; perr != nil && !errors.Is(perr, io.ErrClosedPipe) {
		if ctx.Err() != nil {
			perr = context.Cause(ctx)
		}
		return fmt.Errorf("packing the root file system: %w", perr)
	}
	if err != nil {
		return engineError(ctx, "making an image of the root file system", err)
	}
	return nil
}

// importResult reads the engine's progress to its end.
func importResult(r io.Reader) error {
	limited := &io.LimitedReader{R: r, N: maxAnswer}
	dec := json.NewDecoder(limited)
	for {
		var line struct {
			Error string `json:"error"`
		}
		switch err := dec.Decode(&line); {
		case errors.Is(err, io.EOF) && limited.N > 0:
			return nil
		case err != nil:
			return fmt.Errorf("reading the engine's answer: %w", err)
		case line.Error != "":
			return &statusError{status: http.StatusInternalServerError, message: quote(line.Error)}
		}
	}
}

// Prune implements driver.Pruner.
func (d *Driver) Prune(ctx context.Context, dryRun bool) (int, error) {
	c, err := d.client(ctx, "")
	if err != nil {
		return 0, err
	}
	if !dryRun {
		d.clearLeftovers(ctx, c)
	}
	var images []imageSummary
	if err := c.get(ctx, "/images/json", filter("label", labelImage), &images); err != nil {
		return 0, engineError(ctx, "listing our images", err)
	}
	var containers []struct{ ImageID string }
	all := filter("label", labelMachine)
	all.Set("all", "1")
	if err := c.get(ctx, "/containers/json", all, &containers); err != nil {
		return 0, engineError(ctx, "listing our containers", err)
	}
	used := map[string]bool{}
	for _, k := range containers {
		used[k.ImageID] = true
	}
	unused := 0
	for _, i := range images {
		if used[i.ID] || !strings.HasPrefix(i.ID, "sha256:") {
			continue
		}
		if !dryRun {
			err := c.call(ctx, workTimeout, http.MethodDelete, "/images/"+i.ID, nil, nil, nil)
			if isStatus(err, http.StatusConflict) || isStatus(err, http.StatusNotFound) { // just taken, or just removed
				continue
			}
			if err != nil {
				return unused, engineError(ctx, "removing an image", err)
			}
		}
		unused++
	}
	return unused, nil
}
