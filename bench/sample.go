package main

import (
	"context"
	"fmt"
	"os/exec"
	"slices"
	"time"
)

// sample is the durations of many runs of one thing.
type sample struct {
	name string
	all  []time.Duration
}

func (s *sample) add(d time.Duration) { s.all = append(s.all, d) }

// at returns the p-th percentile.
func (s *sample) at(p int) time.Duration {
	if len(s.all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(s.all))
	return sorted[min(len(sorted)-1, len(sorted)*p/100)]
}

// print prints p50, p95 and the ratio to a yardstick's p50.
func (s *sample) print(yardstick *sample) {
	line := fmt.Sprintf("%-44s n=%-4d p50 %-10s p95 %-10s", s.name, len(s.all), round(s.at(50)), round(s.at(95)))
	if yardstick != nil && yardstick.at(50) > 0 {
		line += fmt.Sprintf(" ratio %.2f × %s", float64(s.at(50))/float64(yardstick.at(50)), yardstick.name)
	}
	fmt.Println(line)
}

func round(d time.Duration) time.Duration {
	switch {
	case d > time.Second:
		return d.Round(time.Millisecond)
	case d > 10*time.Millisecond:
		return d.Round(100 * time.Microsecond)
	}
	return d.Round(time.Microsecond)
}

// timed measures one run of a program, output thrown away.
func timed(ctx context.Context, env []string, argv ...string) (time.Duration, error) {
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = env
	begin := time.Now()
	err := cmd.Run()
	return time.Since(begin), err
}
