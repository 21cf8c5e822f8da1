# The functions of nixpkgs' library that Snowboot's Nix code calls, with the meaning that the manual of nixpkgs gives them.
let
  inherit (builtins)
    all
    any
    attrNames
    attrValues
    concatLists
    concatMap
    concatStringsSep
    elem
    elemAt
    filter
    foldl'
    head
    isAttrs
    isFunction
    isInt
    isList
    length
    listToAttrs
    mapAttrs
    match
    sort
    stringLength
    substring
    tail
    ;
  modules = import ./modules.nix lib;

  lib = modules // {
    inherit
      all
      any
      attrNames
      attrValues
      concatLists
      concatMap
      concatStringsSep
      elem
      elemAt
      filter
      foldl'
      head
      isInt
      length
      listToAttrs
      mapAttrs
      sort
      ;
    lists = { inherit (lib) findFirst; };
    licenses = {
      asl20 = "Apache-2.0";
      mit = "MIT";
    };

    cleanSourceWith =
      {
        src,
        name,
        filter,
      }:
      builtins.path {
        path = src;
        inherit name filter;
      };
    concatMapStringsSep =
      separator: f: list:
      concatStringsSep separator (map f list);
    escapeShellArg = text: "'${builtins.replaceStrings [ "'" ] [ "'\\''" ] (toString text)}'";
    escapeShellArgs = list: concatStringsSep " " (map lib.escapeShellArg list);
    filterAttrs = keep: set: listToAttrs (filter (it: keep it.name it.value) (lib.pairs set));
    findFirst =
      is: otherwise: list:
      let
        found = filter is list;
      in
      if found == [ ] then otherwise else head found;
    functionArgs = builtins.functionArgs;
    hasInfix =
      part: text:
      any (at: substring at (stringLength part) text == part) (lib.range 0 (stringLength text));
    hasPrefix = prefix: text: substring 0 (stringLength prefix) text == prefix;
    hasSuffix =
      suffix: text:
      let
        at = stringLength text - stringLength suffix;
      in
      at >= 0 && substring at (stringLength suffix) text == suffix;
    importTOML = file: builtins.fromTOML (builtins.readFile file);
    init = list: map (elemAt list) (lib.range 0 (length list - 2));
    isFunction = value: isFunction value || value ? __functor;
    last = list: elemAt list (length list - 1);
    literalMD = text: text;
    makeBinPath = packages: concatStringsSep ":" (map (package: "${package}/bin") packages);
    mapAttrsToList = f: set: map (name: f name set.${name}) (attrNames set);
    nameValuePair = name: value: { inherit name value; };
    optional = is: value: if is then [ value ] else [ ];
    optionalAttrs = is: set: if is then set else { };
    optionals = is: list: if is then list else [ ];
    pairs = lib.mapAttrsToList lib.nameValuePair;
    range =
      first: last: if first > last then [ ] else builtins.genList (at: first + at) (last - first + 1);
    removePrefix =
      prefix: text:
      if lib.hasPrefix prefix text then
        substring (stringLength prefix) (stringLength text) text
      else
        text;
    splitString = separator: text: filter builtins.isString (builtins.split "[${separator}]" text);
    subtractLists = without: filter (it: !(elem it without));
    throwIf =
      is: message: value:
      if is then throw message else value;
    toInt = text: builtins.fromJSON text;
    unique = foldl' (list: it: if elem it list then list else list ++ [ it ]) [ ];
    versionOlder = a: b: builtins.compareVersions a b < 0;
    warnIf =
      is: message: value:
      if is then builtins.trace "warning: ${message}" value else value;
  };
in
lib
