package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"
)

// cli is what every command shares.
type cli struct {
	out, err io.Writer
	asJSON   bool
	file     string            // settings file
	flags    map[string]string // settings given as flags
}

// newRoot makes the command tree.
func newRoot(out, errw io.Writer) *cobra.Command {
	c := &cli{out: out, err: errw, flags: map[string]string{}}
	root := &cobra.Command{
		Use:           "keyway",
		Short:         "API gateway and TLS edge with a credential broker",
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetOut(out)
	root.SetErr(errw)
	root.PersistentFlags().StringVar(&c.file, "settings", os.Getenv("KEYWAY_SETTINGS"), "file of node settings (keyway.yaml)")
	root.PersistentFlags().BoolVar(&c.asJSON, "json", false, "print JSON instead of tables")
	root.AddCommand(
		c.serveCommand(), c.configCommand(), c.validateCommand(), c.explainCommand(),
		c.certsCommand(), c.secretsCommand(), c.credentialsCommand(), c.auditCommand(), c.statusCommand(), c.reloadCommand(), c.upgradeCommand(), c.versionCommand(),
	)
	wrongUsage(root)
	return root
}

// wrongUsage gives the mistakes that cobra finds on a command line their exit status.
func wrongUsage(cmd *cobra.Command) {
	wrap := func(err error) error {
		if err == nil {
			return nil
		}
		return &exitError{exitSettings, err}
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return wrap(err) })
	if check := cmd.Args; check != nil {
		cmd.Args = func(c *cobra.Command, args []string) error { return wrap(check(c, args)) }
	} else if !cmd.Runnable() {
		// A command of commands: alone it shows its help, and any other word is a mistake.
		cmd.Args = cobra.ArbitraryArgs
		cmd.RunE = func(c *cobra.Command, args []string) error {
			if len(args) > 0 {
				return wrap(fmt.Errorf("unknown command %q; `%s --help` lists what there is", args[0], c.CommandPath()))
			}
			return c.Help()
		}
	}
	for _, c := range cmd.Commands() {
		wrongUsage(c)
	}
}

// settingFlags gives a command a flag for each setting named, all of them for none.
func (c *cli) settingFlags(cmd *cobra.Command, only ...string) {
	for _, x := range settingTable() {
		if len(only) > 0 && !contains(only, x.key) {
			continue
		}
		def := x.def
		if def == "" {
			def = "none"
		}
		cmd.Flags().Var(&settingFlag{c, x.key}, x.flag(), fmt.Sprintf("%s: %s (default %s, %s)", x.meaning, x.form, def, x.env()))
	}
}

func contains(list []string, s string) bool {
	for _, x := range list {
		if x == s {
			return true
		}
	}
	return false
}

// settingFlag is a flag that remembers that it was given.
type settingFlag struct {
	c   *cli
	key string
}

func (f *settingFlag) String() string { return "" }
func (f *settingFlag) Type() string   { return "value" }
func (f *settingFlag) Set(v string) error {
	f.c.flags[f.key] = v
	return nil
}

// settings reads the node's settings as this command line has them.
func (c *cli) settings() (*settings, error) {
	s, err := readSettings(c.file, os.Environ(), c.flags)
	if err != nil {
		return nil, &exitError{exitSettings, err}
	}
	return s, nil
}

// print renders v as JSON, or a table made by rows.
func (c *cli) print(v any, head string, rows func(add func(cells ...string))) error {
	if c.asJSON {
		e := json.NewEncoder(c.out)
		e.SetIndent("", "  ")
		return e.Encode(v)
	}
	w := tabwriter.NewWriter(c.out, 0, 8, 2, ' ', 0)
	fmt.Fprintln(w, strings.ReplaceAll(head, " ", "\t"))
	rows(func(cells ...string) { fmt.Fprintln(w, strings.Join(cells, "\t")) })
	return w.Flush()
}

func (c *cli) serveCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Run a gateway",
		Long: "Run a gateway until SIGTERM or SIGINT. SIGHUP reloads documents and credentials, SIGUSR1 reopens log files,\n" +
			"SIGUSR2 has the program that is installed now take over (see `keyway upgrade`).\n" +
			"With no documents it starts in development mode: a starter document, a built-in echo upstream and certificates\n" +
			"from a development CA.\n\n" +
			"Exit status: 0 stopped as asked, 1 failed, 2 wrong settings, 3 requests were cut at the end of the grace period,\n" +
			"4 a second signal stopped it at once.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			from, err := inherit(cmd.Context()) // before the environment is read, from which it takes something
			if err != nil {
				return &exitError{exitFailed, err}
			}
			s, err := c.settings()
			if err != nil {
				return from.failed(err)
			}
			return serve(cmd.Context(), s, c.out, c.err, from)
		},
	}
	c.settingFlags(cmd)
	return cmd
}

func (c *cli) configCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "config", Short: "Show the node's configuration"}
	cmd.AddCommand(&cobra.Command{
		Use: "settings", Short: "List every node setting with its default and meaning", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			type row struct {
				Key     string `json:"key"`
				Env     string `json:"env"`
				Flag    string `json:"flag"`
				Default string `json:"default"`
				Form    string `json:"form"`
				Meaning string `json:"meaning"`
			}
			var all []row
			for _, x := range settingTable() {
				all = append(all, row{x.key, x.env(), "--" + x.flag(), x.def, x.form, x.meaning})
			}
			return c.print(all, "SETTING ENVIRONMENT DEFAULT MEANING", func(add func(...string)) {
				for _, r := range all {
					def := r.Default
					if def == "" {
						def = "-"
					}
					add(r.Key, r.Env, def, r.Meaning+" ("+r.Form+")")
				}
			})
		},
	})
	return cmd
}

func (c *cli) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Print the version", Args: cobra.NoArgs,
		RunE: func(*cobra.Command, []string) error {
			if c.asJSON {
				return json.NewEncoder(c.out).Encode(map[string]string{"version": version, "go": runtime.Version()})
			}
			_, err := fmt.Fprintf(c.out, "keyway %s (%s %s/%s)\n", version, runtime.Version(), runtime.GOOS, runtime.GOARCH)
			return err
		},
	}
}
