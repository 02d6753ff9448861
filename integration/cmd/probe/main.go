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

// run does everything main is for and answers the exit status.
func run() int {
	source := flag.String("probe", "integration/edgeprobe", "folder of the probe's source")
	keyway := flag.String("keyway", "bin/keyway", "the binary under test")
	only := flag.String("only", "", "run only the cases whose id or group matches this regular expression")
	verbose := flag.Bool("v", false, "print the cases that pass too, and the node's log")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	err := attack(ctx, *source, *keyway, *only, *verbose)
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
func attack(ctx context.Context, source, keyway, only string, verbose bool) error {
	dir, err := os.MkdirTemp("", "keyway-probe-")
	if err != nil {
		return fmt.Errorf("making a folder to work in: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	tool := filepath.Join(dir, "probe")
	build := exec.CommandContext(ctx, "go", "build", "-C", source, "-o", tool, ".")
	build.Stderr = os.Stderr
	if err := build.Run(); err != nil {
		return fmt.Errorf("building the probe in %s: %v", source, err)
	}
	fixtures := filepath.Join(dir, "fixtures")
	if out, err := exec.CommandContext(ctx, tool, "-gen", "-fixtures", fixtures).CombinedOutput(); err != nil {
		return fmt.Errorf("writing the probe's certificates: %v: %s", err, out)
	}
	n, err := startNode(ctx, dir, keyway, fixtures)
	if err != nil {
		return err
	}
	defer n.stop(verbose)
	args := []string{"-target", n.plain, "-tls", n.tls, "-host", "edge.test", "-backend", n.origin, "-fixtures", fixtures, "-idle", "700ms"}
	if only != "" {
		args = append(args, "-only", only)
	}
	if verbose {
		args = append(args, "-v")
	}
	probe := exec.CommandContext(ctx, tool, args...)
	probe.Stdout, probe.Stderr = os.Stdout, os.Stderr
	if err := probe.Run(); err != nil {
		return fmt.Errorf("running the probe: %w", err)
	}
	return n.alive()
}
