"""What the kit and the programs share: files, processes, devices and the command line."""
