"""What a command does beyond running stages: each module is the work of one command, over context, pipeline and stages."""
