// Package cputest measures, for tests, how long code keeps a processor between two rests.
package cputest
