package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/secrets"
)

// ledgerDir is where the node keeps its ledger, its key and its head.
func ledgerDir(s *settings) string { return filepath.Join(s.DataDir, "ledger") }

func (c *cli) auditCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "audit", Short: "Read and verify the ledger of every change"}
	cmd.AddCommand(c.auditTail(), c.auditQuery(), c.auditVerify())
	return cmd
}

// ledgerFiles are the files named, or those of the data folder.
func (c *cli) ledgerFiles(args []string) ([]string, error) {
	var named []string
	for _, a := range args {
		info, err := os.Stat(a)
		if err != nil || !info.IsDir() {
			named = append(named, a) // reading it tells what is wrong
			continue
		}
		files, err := secrets.LedgerFiles(a)
		if err != nil {
			return nil, err
		}
		named = append(named, files...)
	}
	if len(named) > 0 {
		return named, nil
	}
	s, err := c.settings()
	if err != nil {
		return nil, err
	}
	files, err := secrets.LedgerFiles(ledgerDir(s))
	if err != nil {
		return nil, err
	}
	if len(files) == 0 {
		return nil, fmt.Errorf("there is no ledger in %s: name its files, or the node's data folder with --data-dir", ledgerDir(s))
	}
	return files, nil
}

func (c *cli) auditTail() *cobra.Command {
	count := 20
	cmd := &cobra.Command{
		Use: "tail [FILE...]", Short: "Show the last events", Args: cobra.ArbitraryArgs,
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := c.ledgerFiles(args)
			if err != nil {
				return err
			}
			events, err := lastEvents(files, count)
			if err != nil {
				return err
			}
			return c.printEvents(events)
		},
	}
	cmd.Flags().IntVarP(&count, "lines", "n", count, "how many events")
	c.settingFlags(cmd, "data_dir")
	return cmd
}

// lastEvents reads the last n events of a ledger's files, oldest first.
func lastEvents(files []string, n int) ([]secrets.Event, error) {
	events := []secrets.Event{}
	err := eachEvent(files, func(e secrets.Event) {
		if events = append(events, e); len(events) > 2*n {
			events = append([]secrets.Event{}, events[len(events)-n:]...)
		}
	})
	if err != nil {
		return nil, err
	}
	return events[max(0, len(events)-n):], nil
}

// eachEvent reads the events of a ledger's files, oldest first.
func eachEvent(files []string, f func(secrets.Event)) error {
	for _, name := range files {
		if err := eachEventOf(name, f); err != nil {
			return fmt.Errorf("reading the ledger: %w", err)
		}
	}
	return nil
}

func eachEventOf(name string, yield func(secrets.Event)) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { _ = f.Close() }()
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var line struct {
			Event *secrets.Event `json:"event"`
		}
		if json.Unmarshal(lines.Bytes(), &line) == nil && line.Event != nil { // verify is what judges lines
			yield(*line.Event)
		}
	}
	return lines.Err()
}

func (c *cli) auditVerify() *cobra.Command {
	var keyFile string
	cmd := &cobra.Command{
		Use: "verify [FILE...]", Short: "Verify that no event was changed, removed or reordered", Args: cobra.ArbitraryArgs,
		Long: "Verify the files of a ledger, oldest first; with none, those of the data folder. Exit status 1 when something\n" +
			"is wrong. The key is read from --key, else from beside the last file; without it the answer says what it cannot show.",
		RunE: func(_ *cobra.Command, args []string) error {
			files, err := c.ledgerFiles(args)
			if err != nil {
				return err
			}
			explicit := keyFile != ""
			if !explicit {
				keyFile = filepath.Join(filepath.Dir(files[len(files)-1]), secrets.LedgerKeyFile)
			}
			key, err := secrets.ReadLedgerKey(keyFile)
			if err != nil && (explicit || !errors.Is(err, fs.ErrNotExist)) {
				return fmt.Errorf("reading the ledger's key: %w", err)
			}
			report, err := secrets.Verify(files, key)
			if err != nil {
				return err
			}
			return c.printReport(report)
		},
	}
	cmd.Flags().StringVar(&keyFile, "key", "", "file of the ledger's key")
	c.settingFlags(cmd, "data_dir")
	return cmd
}

func (c *cli) printReport(r secrets.Report) error {
	if c.asJSON {
		if err := c.print(r, "", nil); err != nil {
			return err
		}
	} else {
		for _, f := range r.Findings {
			fmt.Fprintf(c.out, "%s:%d: %s: %s\n", f.File, f.Line, f.Problem, f.Message)
		}
		fmt.Fprintf(c.out, "%d lines, events %d to %d, %d findings\n", r.Lines, r.First, r.Last, len(r.Findings))
		for _, n := range r.NotShown {
			fmt.Fprintln(c.out, "not shown: "+n)
		}
	}
	if !r.OK() {
		return quiet(exitFailed)
	}
	return nil
}
