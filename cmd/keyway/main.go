// Command keyway is the whole product in one binary: the gateway (`keyway serve`)
// and the commands around it. Main is wiring: the plugins are listed in
// plugins.go, the settings in settings_table.go, the parts of a node in node.go.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
)

// version is set by the build.
var version = "0.1.0-dev"

func main() {
	err := newRoot(printable{os.Stdout}, printable{os.Stderr}).ExecuteContext(context.Background())
	if err == nil {
		return
	}
	if text := err.Error(); text != "" {
		fmt.Fprintln(printable{os.Stderr}, "keyway: "+text)
	}
	var e *exitError
	if errors.As(err, &e) {
		os.Exit(e.status)
	}
	os.Exit(exitFailed)
}
