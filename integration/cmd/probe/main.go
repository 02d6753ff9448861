// Command probe attacks a gateway with raw HTTP/1.1, HTTP/2 and TLS cases and
// judges it by what the origin behind it really received.
//
// It builds the probe (a module of its own), has it write its certificates, starts
// Keyway with a document made for them, runs every case and exits as the probe does:
// 0 when all of them passed, 1 when one did not; 2 when it could not be run at all.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
)

func main() {
	os.Exit(run())
}

// options are the flags.
type options struct {
	source, keyway, cases, idle, only string
	verbose                           bool
}

// run does everything main is for and answers the exit status.
func run() int {
	var o options
	flag.StringVar(&o.source, "probe", "integration/edgeprobe", "folder of the probe's source")
	flag.StringVar(&o.keyway, "keyway", "bin/keyway", "the binary under test")
	flag.StringVar(&o.cases, "cases", "", "folder with h1.json, h2.json and tls.json to run in place of the probe's own cases")
	flag.StringVar(&o.idle, "idle", "700ms", "how long silence lasts before an exchange is over")
	flag.StringVar(&o.only, "only", "", "run only the cases whose id or group matches this regular expression")
	flag.BoolVar(&o.verbose, "v", false, "print the cases that pass too, and the node's log")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := attack(ctx, o)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit) && exit.ExitCode() > 0:
		return exit.ExitCode()
	}
	fmt.Fprintln(os.Stderr, "probe:", err)
	return 2
}

// attack runs the whole sequence. An *exec.ExitError is the probe's own verdict.
func attack(ctx context.Context, o options) error {
	dir, err := os.MkdirTemp("", "keyway-probe-")
	if err != nil {
		return fmt.Errorf("making a folder to work in: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tool := filepath.Join(dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-C", o.source, "-o", tool, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the probe in %s: %v", o.source, err)
	}
	fixtures := filepath.Join(dir, "fixtures")
	if out, err := exec.CommandContext(ctx, tool, "-gen", "-fixtures", fixtures).CombinedOutput(); err != nil {
		return fmt.Errorf("writing the probe's certificates: %v: %s", err, out)
	}
	n, err := startNode(ctx, dir, o.keyway, fixtures)
	if err != nil {
		return err
	}
	defer n.stop(o.verbose)
	probe := exec.CommandContext(ctx, tool, o.arguments(n, fixtures)...)
	probe.Stdout, probe.Stderr = os.Stdout, os.Stderr
	if err := probe.Run(); err != nil {
		return fmt.Errorf("running the probe: %w", err)
	}
	return n.alive()
}

// arguments are the probe's.
func (o *options) arguments(n *node, fixtures string) []string {
	args := []string{"-target", n.plain, "-tls", n.tls, "-host", "edge.test", "-backend", n.origin, "-fixtures", fixtures, "-idle", o.idle}
	if o.cases != "" {
		args = append(args, "-h1", filepath.Join(o.cases, "h1.json"), "-h2", filepath.Join(o.cases, "h2.json"), "-tlscases", filepath.Join(o.cases, "tls.json"))
	}
	if o.only != "" {
		args = append(args, "-only", o.only)
	}
	if o.verbose {
		args = append(args, "-v")
	}
	return args
}
