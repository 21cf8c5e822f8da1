# How refused options are told: all of them at once, each with the node, the reason and a way out.
{ lib }:

{
  lines =
    node: problems:
    map (
      it:
      "node `${node}`: ${it.option}: ${it.why}; ${it.instead}, or go without: snowboot.ignore = [ \"${it.option}\" ];"
    ) problems;

  throwOn =
    what: lines: value:
    if lines == [ ] then
      value
    else
      throw "snowboot: ${what} asks for what Snowboot has not:\n${
        lib.concatMapStringsSep "\n" (line: "- ${line}") lines
      }";
}
