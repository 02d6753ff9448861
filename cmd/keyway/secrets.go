package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/keyway-edge/keyway/secrets/sealed"
)

// maxSecret is the largest secret that `keyway secrets put` reads.
const maxSecret = 1 << 20

func (c *cli) secretsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Show the secrets of the running node, and keep secrets in its sealed store"}
	history := false
	list := &cobra.Command{
		Use: "list", Short: "List every reference in use with its state and version, never a value", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			n, err := c.node()
			if err != nil {
				return err
			}
			var all []secretFacts
			if err := n.Get(cmd.Context(), "secrets", &all); err != nil {
				return err
			}
			if history {
				return c.history(all)
			}
			return c.print(all, "REFERENCE STATE VERSION SOURCE FETCHED REASON", func(add func(...string)) {
				for _, f := range all {
					fetched := "-"
					if !f.Fetched.IsZero() {
						fetched = f.Fetched.Format(time.RFC3339)
					}
					add(f.Reference, f.State, fmt.Sprint(f.Version), f.Source, fetched, orDash(f.Reason))
				}
			})
		},
	}
	list.Flags().BoolVar(&history, "history", false, "list every version that is known, with its state")
	for _, x := range append([]*cobra.Command{list, c.secretsPut(), c.secretsRemove()}, c.secretsActions()...) {
		c.settingFlags(x, "data_dir")
		cmd.AddCommand(x)
	}
	return cmd
}

func (c *cli) secretsPut() *cobra.Command {
	return &cobra.Command{
		Use: "put NAME [FILE]", Short: "Keep a secret in the sealed store, read from FILE or standard input", Args: cobra.RangeArgs(1, 2),
		Long: "Keep a secret in the sealed store of the data folder, encrypted at rest. Documents refer to it as\n" +
			"{vault://sealed/NAME}. The value is read from FILE or from standard input, never from the command line,\n" +
			"where other users could see it; one line feed at its end is dropped.",
		RunE: func(_ *cobra.Command, args []string) error {
			var in io.Reader = os.Stdin
			if len(args) == 2 {
				f, err := os.Open(args[1])
				if err != nil {
					return fmt.Errorf("reading the secret: %w", err)
				}
				defer func() { _ = f.Close() }()
				in = f
			}
			value, err := io.ReadAll(io.LimitReader(in, maxSecret+1))
			if err != nil {
				return fmt.Errorf("reading the secret: %w", err)
			}
			if n := len(value); n > 0 && value[n-1] == '\n' {
				value = value[:n-1]
			}
			if len(value) == 0 || len(value) > maxSecret {
				return errors.New("the secret is empty or longer than 1 MiB; nothing was changed")
			}
			s, err := c.sealedStore()
			if err != nil {
				return err
			}
			version, err := s.Put(args[0], value)
			if err != nil {
				return err
			}
			fmt.Fprintf(c.out, "kept %s as version %d; refer to it as %s\n", args[0], version, sealed.Reference("sealed", args[0]))
			return nil
		},
	}
}

func (c *cli) secretsRemove() *cobra.Command {
	return &cobra.Command{
		Use: "rm NAME", Short: "Remove a secret and all of its versions from the sealed store", Args: cobra.ExactArgs(1),
		Long: "Remove a secret and all of its versions from the sealed store. A running node closes what needs it at once: an\n" +
			"API key opens nothing any more. Certificates that were read from it serve on until another is in its place.",
		RunE: func(_ *cobra.Command, args []string) error {
			s, err := c.sealedStore()
			if err != nil {
				return err
			}
			if err := s.Remove(args[0]); err != nil {
				return err
			}
			fmt.Fprintf(c.out, "removed %s\n", args[0])
			return nil
		},
	}
}

// sealedStore opens the sealed store of the data folder.
func (c *cli) sealedStore() (*sealed.Store, error) {
	s, err := c.settings()
	if err != nil {
		return nil, err
	}
	if err := prepareDataDir(s.DataDir); err != nil {
		return nil, err
	}
	return sealed.New(sealed.Config{Path: sealedPath(s)}), nil
}
