package oci

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"sync"

	"github.com/mvmctl/mvmctl/internal/machine"
)

// counter adds up what several downloads have brought.
type counter struct {
	mu          sync.Mutex
	done, total int64
	tell        Progress
}

func (c *counter) add(n int64) {
	if n == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.done += n
	c.tell(c.done, c.total)
}

// fetchBlobs brings the layers of a registry or a layout, several at once.
func (c *Client) fetchBlobs(ctx context.Context, img Image, blobs *Blobs, progress Progress) error {
	if err := blobs.keep(ctx, img.digests()...); err != nil {
		return err
	}
	seen := map[string]bool{}
	var missing []Layer
	count := &counter{tell: progress}
	var need int64
	for _, l := range img.Layers {
		if seen[l.Digest] {
			continue
		}
		seen[l.Digest] = true
		count.total += l.Size
		if blobs.has(l.Digest, l.Size) {
			count.done += l.Size
			continue
		}
		missing = append(missing, l)
		need += l.Size - blobs.begun(l.Digest, l.Size)
	}
	progress(count.done, count.total)
	if len(missing) == 0 {
		return nil
	}
	if err := blobs.checkSpace(need); err != nil {
		return err
	}
	return inParallel(ctx, c.tune.parallel, missing, func(ctx context.Context, l Layer) error {
		p, err := blobs.acquire(ctx, l.Digest, l.Size)
		if err != nil {
			return err
		}
		if p == nil { // another process brought it
			count.add(l.Size)
			return nil
		}
		defer func() { _ = p.f.Close() }() // written to the end before it got its name
		d := download{blobs: blobs, layer: l, p: p, count: count, resumed: p.n}
		count.add(p.n)
		if img.source.kind == kindLayout {
			return d.copyFrom(ctx, img.source.path)
		}
		return d.run(ctx, c.registry(img.source.ref))
	})
}

// digests returns those of the layers, as far as they are known.
func (img Image) digests() []string {
	var list []string
	for _, l := range img.Layers {
		if l.Digest != "" {
			list = append(list, l.Digest)
		}
	}
	return list
}

// inParallel does the work for each layer, a few at a time, and ends all with the first error.
func inParallel(ctx context.Context, most int, layers []Layer, do func(context.Context, Layer) error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	queue := make(chan Layer, len(layers))
	for _, l := range layers {
		queue <- l
	}
	close(queue)
	var wg sync.WaitGroup
	for range min(most, len(layers)) {
		wg.Go(func() {
			for l := range queue {
				if ctx.Err() != nil {
					return
				}
				if err := do(ctx, l); err != nil {
					cancel(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// download is one layer on its way.
type download struct {
	blobs   *Blobs
	layer   Layer
	p       *partial
	count   *counter
	resumed int64 // bytes that an earlier process left
}

// restart begins again from nothing.
func (d *download) restart() error {
	d.count.add(-d.p.n)
	d.resumed = 0
	return d.p.reset()
}

// run brings a layer from a registry: each try goes on where the last one broke off.
func (d *download) run(ctx context.Context, r *registry) error {
	for n := 1; ; n++ {
		before := d.p.n
		err := d.attempt(ctx, r)
		if err == nil {
			if err = d.finish(); err == nil {
				return nil
			}
			if d.resumed == 0 || machine.CodeOf(err) != "integrity.digest" {
				return err
			}
			// What an earlier process left may be wrong, for example after a power cut. Only this
			// time: resumed is 0 from here on.
			d.count.add(-d.layer.Size)
			d.resumed = 0
			continue
		}
		again, ok := errors.AsType[retryable](err)
		if !ok && machine.CodeOf(err) == "peer.timeout" && d.p.n > before {
			again, ok = retryable{error: err}, true // it moved, so it may move again
		}
		if !ok || ctx.Err() != nil {
			return err
		}
		if n > r.c.tune.retries {
			return again.error
		}
		if err := r.c.pause(ctx, n, again.asked); err != nil {
			return err
		}
	}
}

// finish gives the layer its name.
func (d *download) finish() error {
	return d.blobs.finish(d.p, d.layer.Digest)
}

// attempt asks for the rest of the layer and writes what comes.
func (d *download) attempt(ctx context.Context, r *registry) error {
	size := d.layer.Size
	if d.p.n == size {
		return nil
	}
	header := http.Header{}
	if d.p.n > 0 {
		header.Set("Range", "bytes="+strconv.FormatInt(d.p.n, 10)+"-")
	}
	resp, err := r.get(ctx, r.url("blobs", d.layer.Digest), header)
	if err != nil {
		return err
	}
	switch resp.StatusCode {
	case http.StatusOK: // all of it, also if we asked for less
		if err := d.restart(); err != nil {
			resp.close()
			return err
		}
	case http.StatusPartialContent:
		if d.p.n > 0 && rangeFits(resp.Header.Get("Content-Range"), d.p.n, size) {
			break
		}
		fallthrough
	case http.StatusRequestedRangeNotSatisfiable:
		asked := d.p.n > 0
		resp.close()
		if err := d.restart(); err != nil {
			return err
		}
		err := machine.Errorf("peer.invalid", remedyRegistry, "%s answers with another part of layer %s than was asked for", plain(r.host), shortDigest(d.layer.Digest))
		if asked { // the next try asks for all of it
			return retryable{error: err}
		}
		return err
	case http.StatusNotFound:
		resp.close()
		return liedError("layer", d.layer.Digest)
	default:
		return r.statusError(resp, "layer "+shortDigest(d.layer.Digest))
	}
	defer resp.close()
	return d.receive(resp, resp.ContentLength)
}

// receive writes the rest of the layer, and never more than one byte beyond it.
func (d *download) receive(body io.Reader, length int64) error {
	rest := d.layer.Size - d.p.n
	if length > rest {
		return d.tooLong()
	}
	buf := make([]byte, 256<<10)
	for limited := io.LimitReader(body, rest+1); ; {
		n, err := limited.Read(buf)
		if int64(n) > d.layer.Size-d.p.n {
			return d.tooLong()
		}
		if _, werr := d.p.Write(buf[:n]); werr != nil {
			return werr
		}
		d.count.add(int64(n))
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return err
		}
	}
	if d.p.n < d.layer.Size {
		return retryable{error: machine.Errorf("peer.truncated", remedyRegistry,
			"layer %s ended after %d of %d bytes", shortDigest(d.layer.Digest), d.p.n, d.layer.Size)}
	}
	return nil
}

// tooLong gives up what came: it belongs to something else.
func (d *download) tooLong() error {
	err := sizeError("layer %s has more than the %d bytes that were promised", shortDigest(d.layer.Digest), d.layer.Size)
	return errors.Join(err, d.restart())
}

// rangeFits checks "bytes FROM-TO/SIZE" (RFC 9110, section 14.4).
func rangeFits(value string, from, size int64) bool {
	rest, ok := strings.CutPrefix(value, fmt.Sprintf("bytes %d-", from))
	to, total, ok2 := strings.Cut(rest, "/")
	last, err := strconv.ParseInt(to, 10, 64)
	return ok && ok2 && err == nil && last < size && last >= from && (total == "*" || total == strconv.FormatInt(size, 10))
}
