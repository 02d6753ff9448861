package main

import (
	"github.com/spf13/cobra"
)

func (c *cli) auditCommand() *cobra.Command {
	return &cobra.Command{Use: "audit", Short: "Read and verify the ledger"}
}
